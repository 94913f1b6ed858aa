"""Stage `train`: the diffusion model."""

from __future__ import annotations

import dataclasses
import logging

import jax
import numpy as np

from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import class_names
from diffusion_jax.data.sources.wrappers import skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.generation.grid import class_grid, save_png
from diffusion_jax.images import reduce_images
from diffusion_jax.report import MetricsWriter
from diffusion_jax.sharding import check_batch_size
from diffusion_jax.stages import fit
from diffusion_jax.stages.conditioning import Conditioning, make_conditioning
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import draw_while_training
from diffusion_jax.stages.sample_quality import check_quality, evaluate_samples
from diffusion_jax.stored_networks import DIFFUSION
from diffusion_jax.training.loop import Call, Hook, Stop
from diffusion_jax.training.objectives import diffusion_objective
from diffusion_jax.training.step import TrainState
from diffusion_jax.workdir import if_possible

logger = logging.getLogger(__name__)

complete = fit.complete


def check(run: Run) -> None:
    config = run.experiment.train
    fit.check(run, DIFFUSION)
    if config.sample_every or config.evaluate_every:
        check_batch_size(run.mesh, run.experiment.sample.batch_size, 'sample.batch_size')
    if config.evaluate_every:
        check_quality(run)


def locate(run: Run) -> fit.Training:
    experiment = run.experiment
    size, noise = experiment.data.low_res_size, experiment.train.low_res_noise
    objective = diffusion_objective(experiment.unet, experiment.diffusion, size, noise)
    return fit.locate(run, DIFFUSION, objective, dataclasses.asdict(experiment.diffusion))


def main(run: Run, training: fit.Training) -> None:
    config = training.config

    def make_hooks(writer: MetricsWriter) -> list[Hook]:
        hooks = [Hook('grid', config.sample_every, _draw_grids(run, writer))]
        if config.evaluate_every:
            hooks.append(Hook('evaluation', config.evaluate_every, evaluate_samples(run)))
        return hooks

    fit.fit(run, training, make_hooks)


def _draw_grids(run: Run, writer: MetricsWriter) -> Call:
    """Draws a grid of unguided samples with the average that sampling will use."""
    config = run.experiment.sample
    conditioning = _reduced_images(run) if run.experiment.unet.low_res else make_conditioning(run)

    def draw_grid(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
        try:
            images, labels = draw_while_training(run, state, conditioning, np.arange(config.batch_size))
        except NotFinite as error:
            logger.warning('%s: no grid at step %d: %s', run.workdir / DIFFUSION, step, error)
            return {}
        names = class_names(run.source('train')) if run.experiment.unet.num_classes is not None else None
        grid = class_grid(images.__getitem__, labels, config.grid_columns, names)
        if jax.process_index() == 0:
            path = run.workdir / DIFFUSION / 'grids' / f'step_{step:08d}.png'
            with if_possible(path):
                save_png(path, grid)
        writer.image(step, 'samples', grid)
        return {}

    return draw_grid


def _reduced_images(run: Run) -> Conditioning:
    """Training images reduced to the size that an upsampler enlarges."""
    data, size = run.experiment.data, run.experiment.sample.batch_size
    assert data.low_res_size is not None
    source = skipping(run.source('train'), data)
    batch = next(batches(source, size, seed=run.experiment.seed, transform=make_transform(data)))
    low_res, labels = reduce_images(batch['image'], data.low_res_size), batch['label']
    return lambda index: (labels[index], low_res[index])
