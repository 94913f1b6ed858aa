"""Stage `train`: the diffusion model."""

from __future__ import annotations

import dataclasses
import functools
import logging

import jax
import numpy as np

from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import class_names
from diffusion_jax.data.sources.wrappers import skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.generation.grid import save_png
from diffusion_jax.images import reduce_images
from diffusion_jax.interruption import interruptible
from diffusion_jax.report import MetricsWriter, if_possible
from diffusion_jax.stages.fit import Training, fit, is_complete
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import make_draw, make_generator, picture
from diffusion_jax.stages.sample_inputs import Inputs, sample_inputs
from diffusion_jax.stages.sample_quality import evaluate_samples
from diffusion_jax.stored_networks import DIFFUSION
from diffusion_jax.training.hooks import Call, Stop
from diffusion_jax.training.objectives import diffusion_objective
from diffusion_jax.training.step import TrainState

logger = logging.getLogger(__name__)


def main(run: Run) -> None:
    config = run.experiment.train

    def make_calls(writer: MetricsWriter) -> dict[str, Call]:
        grid = {'grid': _draw_grids(run, writer)}
        return grid | ({'evaluation': evaluate_samples(run)} if config.evaluate_every else {})

    fit(run, _training(run), make_calls)


def complete(run: Run) -> bool:
    return is_complete(run, _training(run))


def _training(run: Run) -> Training:
    experiment = run.experiment
    return Training(
        directory=run.workdir / DIFFUSION,
        network=experiment.unet,
        objective=diffusion_objective(experiment.unet, experiment.diffusion, experiment.data.low_res_size),
        config=experiment.train,
        process=dataclasses.asdict(experiment.diffusion),
        pretrained=experiment.pretrained.diffusion,
        intervals={'grid': experiment.train.sample_every, 'evaluation': experiment.train.evaluate_every},
    )


def _draw_grids(run: Run, writer: MetricsWriter) -> Call:
    """Draws a grid of unguided samples with the average that sampling will use."""
    config = run.experiment.sample
    inputs = _reduced_images(run) if run.experiment.unet.low_res else sample_inputs(run)

    def draw_grid(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
        params = state.ema.get(str(config.ema_rate), state.params)
        draw = make_draw(run, make_generator(run, {DIFFUSION: params}).unguided(), inputs)
        try:
            images, labels = interruptible(functools.partial(draw, np.arange(config.batch_size)))
        except NotFinite as error:
            logger.warning('%s: no grid at step %d: %s', run.workdir / DIFFUSION, step, error)
            return {}
        names = class_names(run.source('train')) if run.experiment.unet.num_classes is not None else None
        grid = picture(images.__getitem__, labels, config.grid_columns, names)
        if jax.process_index() == 0:
            path = run.workdir / DIFFUSION / 'grids' / f'step_{step:08d}.png'
            with if_possible(path):
                save_png(path, grid)
        writer.image(step, 'samples', grid)
        return {}

    return draw_grid


def _reduced_images(run: Run) -> Inputs:
    """Training images made as small as an upsampler takes them: it enlarges these while it is trained."""
    data, size = run.experiment.data, run.experiment.sample.batch_size
    source = skipping(run.source('train'), data)
    batch = next(batches(source, size, seed=run.experiment.seed, transform=make_transform(data)))
    low_res, labels = reduce_images(batch['image'], data.low_res_size), batch['label']
    return lambda index: (labels[index], low_res[index])
