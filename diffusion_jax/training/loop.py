"""The training loop: it counts steps, feeds batches, and knows nothing of what it trains."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax

from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import MetricsWriter, Progress
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.hooks import Hook, call_hooks
from diffusion_jax.training.metrics import Metrics, Recent, Sums
from diffusion_jax.training.profiling import Profiler
from diffusion_jax.training.step import TrainState, skipped_steps
from diffusion_jax.training.timing import Timer

logger = logging.getLogger(__name__)

SHOWN = ('loss', 'skipped_steps')  # beside the progress bar


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    batches: Iterator[Any],
    config: TrainConfig,
    *,
    save: Callable[[TrainState, Sums, list[str]], None],
    sums: Sums,
    hooks: Sequence[Hook],
    due: Collection[str],
    on_line: Callable[[], None],
    writer: MetricsWriter,
    profiler: Profiler,
    name: str,
    stop: Callable[[], bool],
    least_step_s: float | None = None,
) -> TrainState:
    """Trains from `state` to `config.num_steps`.

    Args:
        batches: on the devices.
        save: starts a checkpoint of the state, of the metrics since the last line of the log, and of the
            names of the hooks that are left to be called at this step.
        sums, due: such metrics and names of a resumed run.
        on_line: called after each line of the log.
        name: of what is trained, for the progress bar.
        stop: asked after every step and within hooks; when it says yes the state is saved.
        least_step_s: the seconds of a step at the devices' peak; the log has their share of the real step.

    Raises:
        Interrupted: after saving, because `stop` said so.
        UserError: of the batches or a hook, such as an unreadable image; on one host after saving. Several
            hosts may not all have it.
        TooManySkipped: `config.max_skipped` steps in a row were skipped. That is looked at where a line is
            logged or a state saved, at no other step, since each look waits for the device.
    """
    start = int(state.step)
    recent, timer = Recent(start, sums, config.max_skipped), Timer(config.batch_size, least_step_s)
    overdue = False

    def leave_if(asked: object, step: int) -> None:
        if asked:
            raise Interrupted(f'{name}: stopped at step {step} of {config.num_steps}, which is saved')

    @contextlib.contextmanager
    def save_on_error(step: int, left: list[str]) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if jax.process_count() > 1:
                raise
            if step > start:
                save(state, recent.sums(), left)
            saved = f'step {step} of {config.num_steps} is saved' if step else 'no step was done'
            error.args = (f'{error}; {name}: {saved}',)
            raise

    leave_if(call_hooks([hook for hook in hooks if hook.name in due], start, state, writer, stop), start)
    with (
        Progress(name, config.num_steps, start=start, images_per_step=config.batch_size) as progress,
        profiler,
    ):
        for step in range(start + 1, config.num_steps + 1):
            with save_on_error(step - 1, []), timer.waiting():
                batch = next(batches)
            profiler.before(step)
            state, metrics = train_step(state, batch)
            recent.add(metrics)
            timer.count_step(metrics)
            profiler.after(step, metrics)
            last, stopping = step == config.num_steps, stop()
            if _is_due(step, config.log_every) or last:
                values = recent.take() | {'skipped_steps': skipped_steps(state)}
                writer.scalars(step, values | timer.take())
                progress.update(step, **{key: values[key] for key in SHOWN if values.get(key)})
                on_line()
            called, left = [hook for hook in hooks if hook.is_due(step, config.num_steps)], []
            if called:
                names = [hook.name for hook in called]
                with save_on_error(step, names), timer.aside(metrics):
                    left = call_hooks(called, step, state, writer, stop)
            # Save after the hooks, so that a resumed run only repeats the unfinished ones.
            overdue = overdue or _is_due(step, config.checkpoint_every)
            if last or stopping or left or overdue:
                sums = recent.sums()
                # What makes steps fail may lie in the parameters: they replace nothing that was saved before.
                if last or stopping or left or not recent.skipped_in_a_row:
                    with timer.aside(metrics):
                        save(state, sums, left)
                    overdue = False
            leave_if(stopping or left, step)
    if start < config.num_steps:
        logger.info('%s: %s', name, timer.summary())
    return state


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
