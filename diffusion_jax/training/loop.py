"""The training loop: it counts steps, feeds batches, and knows nothing of what it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import MetricsWriter, Progress
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.step import Metrics, TrainState

Hook = tuple[int, Callable[[int, TrainState], None]]


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    batches: Any,
    config: TrainConfig,
    *,
    put: Callable[[dict[str, np.ndarray]], Any],
    save: Callable[[TrainState], None],
    hooks: Sequence[Hook],
    writer: MetricsWriter,
    name: str,
    stop: Callable[[], bool],
) -> TrainState:
    """Trains from `state` to `config.num_steps`.

    Args:
        batches: iterator of host batches.
        put: host batch → device batch.
        save: starts a checkpoint of the state.
        hooks: (every, call) pairs; `call(step, state)` after each so many steps.
        name: of what is trained, for the progress bar.
        stop: asked after every step; when it says yes the state is saved.

    Raises:
        Interrupted: after saving, because `stop` said so.
    """
    pending: list[Metrics] = []
    start = int(state.step)
    with Progress(name, config.num_steps, start=start, images_per_step=config.batch_size) as progress:
        for step in range(start + 1, config.num_steps + 1):
            state, metrics = train_step(state, put(next(batches)))
            pending.append(metrics)
            last, stopping = step == config.num_steps, stop()
            if step % config.log_every == 0 or last:
                values = mean_metrics(pending)
                pending.clear()
                writer.scalars(step, values)
                progress.update(step, loss=values['loss'])
            for every, call in hooks:
                if _is_due(step, every) or (every and last):
                    call(step, state)
            if last or stopping or _is_due(step, config.checkpoint_every):
                save(state)
            if stopping and not last:
                raise Interrupted(f'{name}: stopped at step {step} of {config.num_steps}, which is saved')
    return state


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def mean_metrics(steps: Sequence[Metrics]) -> dict[str, float]:
    """Means over several steps of (total, count) pairs; what was never counted is left out."""
    steps = jax.device_get(steps)
    sums = {name: np.sum([step[name] for step in steps], axis=0) for name in steps[0]}
    return {name: float(total / count) for name, (total, count) in sums.items() if count}
