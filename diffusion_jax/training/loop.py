"""The training loop: it counts steps, feeds batches, and knows nothing of what it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import MetricsWriter, Progress
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.metrics import Metrics, Sums, add_up, means
from diffusion_jax.training.step import TrainState

Hook = tuple[int, Callable[[int, TrainState], None]]


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    batches: Any,
    config: TrainConfig,
    *,
    put: Callable[[dict[str, np.ndarray]], Any],
    save: Callable[[TrainState, Sums], None],
    sums: Sums,
    hooks: Sequence[Hook],
    writer: MetricsWriter,
    name: str,
    stop: Callable[[], bool],
) -> TrainState:
    """Trains from `state` to `config.num_steps`.

    Args:
        batches: iterator of host batches.
        put: host batch → device batch.
        save: starts a checkpoint of the state, and of the metrics since the last line of the log.
        sums: such metrics of a run that goes on.
        hooks: (every, call) pairs; `call(step, state)` after each so many steps.
        name: of what is trained, for the progress bar.
        stop: asked after every step; when it says yes the state is saved.

    Raises:
        Interrupted: after saving, because `stop` said so.
    """
    recent: list[Metrics] = []
    start = int(state.step)
    with Progress(name, config.num_steps, start=start, images_per_step=config.batch_size) as progress:
        for step in range(start + 1, config.num_steps + 1):
            state, metrics = train_step(state, put(next(batches)))
            recent.append(metrics)
            last, stopping = step == config.num_steps, stop()
            if step % config.log_every == 0 or last:
                values = means(add_up(recent, sums))
                recent, sums = [], {}
                writer.scalars(step, values)
                progress.update(step, loss=values['loss'])
            if last or stopping or _is_due(step, config.checkpoint_every):
                recent, sums = [], add_up(recent, sums)
                save(state, sums)
            if stopping:
                raise Interrupted(f'{name}: stopped at step {step} of {config.num_steps}, which is saved')
            for every, call in hooks:
                if _is_due(step, every) or (every and last):
                    call(step, state)
    return state


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
