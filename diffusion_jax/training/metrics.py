"""Metrics as (total, count) pairs, so that means over batches, steps and devices are exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

Metrics = Mapping[str, tuple[jax.Array, jax.Array]]
Sums = Mapping[str, tuple[float, float]]


def add_up(steps: Sequence[Metrics], sums: Sums | None = None) -> Sums:
    """The sums of every metric over several steps, on top of `sums`.

    Added in float64 one step after the other: in two portions they come out the same to the bit.
    """
    added = dict(sums or {})
    for step in jax.device_get(list(steps)):
        for name, (total, count) in step.items():
            old_total, old_count = added.get(name, (0.0, 0.0))
            added[name] = (old_total + float(total), old_count + float(count))
    return added


def means(sums: Sums) -> dict[str, float]:
    """Every metric that was counted at all."""
    return {name: total / count for name, (total, count) in sums.items() if count}
