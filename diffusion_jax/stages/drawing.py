"""Draws the samples that a folder lacks."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.generation.shards import draw_samples
from diffusion_jax.report import Progress
from diffusion_jax.shards import SHARDS, gaps
from diffusion_jax.stages.run import Run

# (indices [B], report of (steps done, number of steps)) → images uint8 [B, H, W, C] and labels [B]
Draw = Callable[[np.ndarray, Callable[[int, int], None]], tuple[np.ndarray, np.ndarray]]


def is_complete(directory: Path, num_samples: int) -> bool:
    """Whether all samples exist."""
    return not gaps(directory / SHARDS, num_samples, num_samples)


def draw_missing(run: Run, directory: Path, title: str, draw: Draw, population: int = 1) -> None:
    """Draws the samples of `config.sample.num_samples` that a folder lacks; see `draw_samples`.

    population: the number of samples that belong together, and are in one batch.
    """
    num_samples = run.experiment.sample.num_samples
    size = -(-run.batch_size('sample', num_samples) // population) * population
    progress = Progress(title, num_samples)
    draw_samples(
        directory,
        progress,
        lambda index: draw(index, lambda step, steps: progress.within(step, steps, size)),
        num_samples,
        size,
        run.stop,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
    )
