"""The training loop, which knows nothing about the network that it trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import MetricsWriter, Progress
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.hooks import Hook, call_hooks, leave_if
from diffusion_jax.training.metrics import Metrics, MetricsAccumulator, Sums
from diffusion_jax.training.step import TrainState, skipped_steps
from diffusion_jax.training.timing import Profiler, Timer

logger = logging.getLogger(__name__)

SHOWN = {'loss': 'loss', 'skipped_steps': 'skipped', 'time/images_per_s': 'images/s'}  # in the progress bar


class Calls(NamedTuple):
    """What the loop calls.

    Attributes:
        save: starts a checkpoint of the state and of the metrics since the last line of the log; does nothing
            if the step is saved already.
        poll: called after each line of the log.
        stop: called after every step and within hooks. If it returns True the state is saved.
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

    Args:
        sums: the metrics since the last line of the log of a resumed run; {} otherwise.

    Raises:
        Interrupted: `stop` returned True.
        UserError: of the batches or a hook, such as an unreadable image. A single host saves before.
        TooManySkipped: noticed when a line is logged or a state saved.
    """
    start, overdue = _step(state), False
    recent = MetricsAccumulator(start, sums, config.max_skipped)
    try:
        with Progress(name, config.num_steps, start=start, unit='steps') as progress, calls.profiler:
            for step in range(start if sums else start + 1, config.num_steps + 1):
                if step > start:
                    with calls.timer.waiting():
                        batch = next(batches)
                    state, metrics = calls.profiler.call(step, train_step, state, batch)
                    recent.add(metrics)
                    calls.timer.count_step(metrics)
                    leave_if(calls.stop)
                last, overdue = step == config.num_steps, overdue or _is_due(step, config.checkpoint_every)
                # The parameters may be what makes steps fail: they must not replace an older checkpoint.
                if last or (overdue and recent.sums() and not recent.skipped_in_a_row):
                    with calls.timer.paused(state):
                        calls.save(state, recent.sums())
                    overdue = False
                _finish_step(step, state, config, calls, recent, progress)
    except Interrupted:
        calls.save(state, recent.sums())
        step = f'step {_step(state)} of {config.num_steps}'
        raise Interrupted(f'{name}: stopped at {step}, which is saved') from None
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
    values, due = {}, [hook for hook in calls.hooks if hook.is_due(step, config.num_steps)]
    if due:
        with calls.timer.paused(state):
            values = call_hooks(due, step, state, calls.stop)
    if step == config.num_steps or _is_due(step, config.log_every):
        values = recent.flush() | {'skipped_steps': skipped_steps(state)} | calls.timer.flush() | values
    if values:
        calls.writer.scalars(step, values)
        calls.poll()
        progress.update(step, {SHOWN[key]: values[key] for key in SHOWN if values.get(key)})


def _step(state: TrainState) -> int:
    return int(jax.device_get(state.step))


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
