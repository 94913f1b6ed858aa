"""Metrics as (total, count) pairs, so that means over batches, steps and devices are exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

Metrics = Mapping[str, tuple[jax.Array, jax.Array]]
Sums = Mapping[str, tuple[float, float]]


class TooManySkipped(Exception):
    """So many steps in a row had numbers that are not finite that training does not get ahead any more."""


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


class Recent:
    """The metrics since the last line of the log. They stay on the device until they are asked for.

    Args:
        start: the last step of what a run goes on from; 0 where it begins.
        sums: of that run since its last line.
        max_skipped: so many skipped steps in a row are too many. A run that goes on counts them anew.

    Attributes:
        skipped_in_a_row: up to the step for which `sums` waited last.
    """

    def __init__(self, start: int, sums: Sums, max_skipped: int):
        self._step, self._sums, self._max_skipped = start, sums, max_skipped
        self._steps: list[Metrics] = []
        self.skipped_in_a_row = 0

    def add(self, metrics: Metrics) -> None:
        """The metrics of the next step."""
        self._steps.append(metrics)

    def sums(self) -> Sums:
        """Waits for the last step. Raises TooManySkipped where that became true since it was asked last."""
        steps, self._steps = jax.device_get(self._steps), []
        for step in steps:
            self._step += 1
            skipped = not step['loss'][1]
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
            if self.skipped_in_a_row == self._max_skipped:
                raise TooManySkipped(
                    f'step {self._step} was the last of {self._max_skipped} in a row whose loss or gradient '
                    'is not finite'
                )
        self._sums = add_up(steps, self._sums)
        return self._sums

    def take(self) -> dict[str, float]:
        """The means for a line of the log; the next line begins."""
        values, self._sums = means(self.sums()), {}
        return values
