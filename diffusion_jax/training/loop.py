"""The training loop, which knows nothing about the network that it trains."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import MetricsWriter, Progress
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.metrics import Metrics, MetricsAccumulator, Sums
from diffusion_jax.training.step import TrainState, skipped_steps
from diffusion_jax.training.timing import Profiler, Timer

logger = logging.getLogger(__name__)

SHOWN = {'loss': 'loss', 'skipped_steps': 'skipped', 'time/images_per_s': 'images/s'}  # in the progress bar

Stop = Callable[[], bool]
Call = Callable[[int, TrainState, Stop], dict[str, float]]


class Hook(NamedTuple):
    """A call every `every` steps and after the last one; 0 disables it. A resumed run may repeat it.

    call: (step, state, stop) → values for the log. It calls `leave_if(stop)` after every batch.
    """

    name: str
    every: int
    call: Call


def leave_if(stop: Stop) -> None:
    """Raises Interrupted if `stop` returns True."""
    if stop():
        raise Interrupted


class Calls(NamedTuple):
    """What the loop calls.

    save: starts a checkpoint of the state and of the metrics since the last line, unless the step is saved.
    poll: called after each line of the log.
    stop: called after every step and within hooks; True ends the training after a save.
    """

    save: Callable[[TrainState, Sums], None]
    poll: Callable[[], None]
    stop: Callable[[], bool]
    hooks: Sequence[Hook]
    writer: MetricsWriter
    timer: Timer
    profiler: Profiler


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    batches: Iterator[Any],
    config: TrainConfig,
    calls: Calls,
    *,
    name: str,
    sums: Sums,
) -> TrainState:
    """Trains from `state` to `config.num_steps`. A step may be followed by a checkpoint, hooks and a line of
    the log, in this order; a resumed run repeats the last two for the step that it resumes from.

    sums: the metrics since the last line of the log of a resumed run; {} otherwise.

    Raises:
        Interrupted: `stop` returned True.
        UserError: of the batches or a hook, such as an unreadable image. A single host saves before.
        TooManySkipped: noticed when a line is logged or a state saved.
    """
    start, overdue = _step(state), False
    recent = MetricsAccumulator(start, sums, config.max_skipped)
    try:
        with Progress(name, config.num_steps, unit='steps').begin(start) as progress, calls.profiler:
            for step in range(start if sums else start + 1, config.num_steps + 1):
                if step > start:
                    with calls.timer.spending('waiting'):
                        batch = next(batches)
                    state, metrics = calls.profiler.call(step, train_step, state, batch)
                    recent.add(metrics)
                    calls.timer.count_step(metrics)
                    leave_if(calls.stop)
                last = step == config.num_steps
                overdue = overdue or _is_due(step, config.checkpoint_every, config)
                # The parameters may be what makes steps fail: they must not replace an older checkpoint.
                if last or (overdue and recent.sums() and not recent.skipped_in_a_row):
                    with calls.timer.spending('paused', after=state):
                        calls.save(state, recent.sums())
                    overdue = False
                _finish_step(step, state, config, calls, recent, progress)
    except Interrupted:
        calls.save(state, recent.sums())
        where = f'step {_step(state)} of {config.num_steps}'
        raise Interrupted(f'{name}: stopped at {where}, which is saved') from None
    except UserError:
        if jax.process_count() == 1 and _step(state) > start:
            calls.save(state, recent.sums())
            logger.info('%s: step %d of %d is saved', name, _step(state), config.num_steps)
        raise
    return state


def _finish_step(
    step: int,
    state: TrainState,
    config: TrainConfig,
    calls: Calls,
    recent: MetricsAccumulator,
    progress: Progress,
) -> None:
    """Calls hooks and logs a line, if these are due."""
    values: dict[str, float] = {}
    for hook in calls.hooks:
        if _is_due(step, hook.every, config):
            leave_if(calls.stop)
            with calls.timer.spending('paused', after=state):
                begin = time.perf_counter()
                values |= hook.call(step, state, calls.stop)
                values[f'time/{hook.name}_s'] = time.perf_counter() - begin
    if _is_due(step, config.log_every, config):
        values = recent.flush() | {'skipped_steps': skipped_steps(state)} | calls.timer.flush() | values
    if values:
        calls.writer.scalars(step, values)
        calls.poll()
        progress.update(step, {SHOWN[key]: values[key] for key in SHOWN if values.get(key)})


def _step(state: TrainState) -> int:
    return int(jax.device_get(state.step))


def _is_due(step: int, every: int, config: TrainConfig) -> bool:
    return every > 0 and (step % every == 0 or step == config.num_steps)
