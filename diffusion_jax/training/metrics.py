"""Metrics as (total, count) pairs, so that means over batches, steps and devices are exact."""

from collections.abc import Mapping, Sequence

import jax

Metrics = dict[str, tuple[jax.Array, jax.Array]]
Sums = Mapping[str, tuple[float, float]]


class TooManySkipped(Exception):
    """Too many steps in a row had a loss or gradient that is not finite."""


def add_up(steps: Sequence[Metrics], sums: Sums | None = None) -> Sums:
    """The sums of every metric over several steps, added to `sums`.

    Added in float64, one step after the other: the result does not depend on how steps are grouped.
    """
    added = dict(sums or {})
    for step in jax.device_get(list(steps)):
        for name, (total, count) in step.items():
            old_total, old_count = added.get(name, (0.0, 0.0))
            added[name] = (old_total + float(total), old_count + float(count))
    return added


def means(sums: Sums) -> dict[str, float]:
    """The mean of every metric with a positive count."""
    return {name: total / count for name, (total, count) in sums.items() if count}


class MetricsAccumulator:
    """The metrics since the last line of the log. They stay on the device until they are needed.

    step: the step before the first that is added.
    sums: the metrics of a resumed run since its last line.
    max_skipped: the number of skipped steps in a row that is too many.
    skipped_in_a_row: up to the last step when `sums` was called.
    """

    def __init__(self, step: int, sums: Sums, max_skipped: int):
        self._step, self._sums, self._max_skipped = step, sums, max_skipped
        self._steps: list[Metrics] = []
        self.skipped_in_a_row = 0

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of the next step."""
        self._steps.append(metrics)

    def sums(self) -> Sums:
        """Waits for the last step. Raises TooManySkipped."""
        steps, self._steps = jax.device_get(self._steps), []
        for step in steps:
            self._step += 1
            self.skipped_in_a_row = 0 if step['loss'][1] else self.skipped_in_a_row + 1
            if self.skipped_in_a_row == self._max_skipped:
                which = f'the {self._max_skipped} steps up to step {self._step}'
                raise TooManySkipped(f'the loss or gradient of {which} is not finite')
        self._sums = add_up(steps, self._sums)
        return self._sums

    def flush(self) -> dict[str, float]:
        """The means for a line of the log, after which the sums start again from 0."""
        values, self._sums = means(self.sums()), {}
        return values
