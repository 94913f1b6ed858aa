"""What a training does beside its steps, now and then: it draws a grid, validates, evaluates samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import MetricsWriter
from diffusion_jax.training.step import TrainState

Stop = Callable[[], bool]
Call = Callable[[int, TrainState, Stop], dict[str, float]]


class Hook(NamedTuple):
    """Something that is done every so many steps, and after the last one.

    Attributes:
        name: `time/<name>_s` in the log says that it was done at a step, and how long it took.
        every: so many steps; 0 is never.
        call: (step, state, stop) → numbers for the log. Whenever a batch of its work is done it asks `stop`,
            and raises Interrupted where that says yes: it is then done anew when the training goes on.
    """

    name: str
    every: int
    call: Call

    def is_due(self, step: int, num_steps: int) -> bool:
        return self.every > 0 and (step % self.every == 0 or step == num_steps)


def call_hooks(
    hooks: Sequence[Hook], step: int, state: TrainState, writer: MetricsWriter, stop: Stop
) -> list[str]:
    """Calls one after the other; the names of those that are left because `stop` said so."""
    for number, hook in enumerate(hooks):
        began = time.perf_counter()
        try:
            leave_if(stop)
            values = hook.call(step, state, stop)
        except Interrupted:
            return [left.name for left in hooks[number:]]
        writer.scalars(step, values | {mark(hook.name): time.perf_counter() - began})
    return []


def leave_if(stop: Stop) -> None:
    """Raises Interrupted where `stop` says so."""
    if stop():
        raise Interrupted


def mark(name: str) -> str:
    """What a line of the log has that was written when the hook of this name was done."""
    return f'time/{name}_s'
