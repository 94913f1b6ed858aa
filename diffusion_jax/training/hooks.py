"""What a training does in addition to its steps: sample a grid, validate, evaluate samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from diffusion_jax.interruption import Interrupted
from diffusion_jax.training.step import TrainState

Stop = Callable[[], bool]
Call = Callable[[int, TrainState, Stop], dict[str, float]]


class Hook(NamedTuple):
    """A call every `every` steps and after the last step; `every` 0 disables it.

    It may be repeated: a resumed run calls the hooks of its first step again.

    Attributes:
        call: (step, state, stop) → values for the log. It calls `leave_if(stop)` after every batch.
    """

    name: str
    every: int
    call: Call

    def is_due(self, step: int, num_steps: int) -> bool:
        return self.every > 0 and (step % self.every == 0 or step == num_steps)


def call_hooks(hooks: Sequence[Hook], step: int, state: TrainState, stop: Stop) -> dict[str, float]:
    """The values of all hooks, and the seconds of each as `time/<name>_s`. Interrupted if `stop` says so."""
    values: dict[str, float] = {}
    for hook in hooks:
        leave_if(stop)
        start = time.perf_counter()
        values |= hook.call(step, state, stop)
        values[f'time/{hook.name}_s'] = time.perf_counter() - start
    return values


def leave_if(stop: Stop) -> None:
    """Raises Interrupted if `stop` says so."""
    if stop():
        raise Interrupted
