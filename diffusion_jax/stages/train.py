"""Stage `train`: the diffusion model, with grids of samples and metrics of samples while it is trained."""

import dataclasses
import logging

import jax
import numpy as np

from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import class_names
from diffusion_jax.data.sources.wrappers import skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError, reason
from diffusion_jax.evaluation import comparison
from diffusion_jax.evaluation.eval_set import EvalSet, with_features
from diffusion_jax.evaluation.extractors import FEATURES
from diffusion_jax.evaluation.feature_stats import REFERENCE_ROWS, of_features
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.generation.grid import class_grid, save_png
from diffusion_jax.images import reduce_images
from diffusion_jax.report import MetricsWriter
from diffusion_jax.sharding import check_batch_size, local_mesh
from diffusion_jax.stages import evaluate, fit
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import Conditioning, draw_while_training, make_conditioning
from diffusion_jax.stored_networks import DIFFUSION
from diffusion_jax.training.loop import Call, Hook, Stop, leave_if
from diffusion_jax.training.objectives import diffusion_objective
from diffusion_jax.training.step import TrainState

logger = logging.getLogger(__name__)

complete = fit.complete


def check(run: Run) -> None:
    config = run.experiment.train
    fit.check(run, DIFFUSION)
    if config.sample_every or config.evaluate_every:
        check_batch_size(run.mesh, run.experiment.sample.batch_size, 'sample.batch_size')
    if config.evaluate_every:
        if run.experiment.unet.low_res:
            problem = 'is set, but an upsampler is evaluated only by the stages sample and evaluate'
            raise UserError('config.train.evaluate_every', problem, 'set it to 0')
        evaluate.check(run.on(local_mesh(run.mesh)).unguided())


def locate(run: Run) -> fit.Training:
    experiment = run.experiment
    size, noise = experiment.data.low_res_size, experiment.train.low_res_noise
    objective = diffusion_objective(experiment.unet, experiment.diffusion, size, noise)
    return fit.locate(run, DIFFUSION, objective, dataclasses.asdict(experiment.diffusion))


def main(run: Run, training: fit.Training) -> None:
    fit.fit(run, training, lambda writer: make_hooks(run, writer))


def make_hooks(run: Run, writer: MetricsWriter) -> list[Hook]:
    """Draws grids and evaluates samples: unguided ones, with the average that sampling will use.

    Samples that are not finite are reported and skipped.
    """
    config = run.experiment.train

    def hook(name: str, every: int, call: Call) -> Hook:
        def call_or_warn(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
            try:
                return call(step, state, stop)
            except NotFinite as error:
                logger.warning('%s: no %s at step %d: %s', run.workdir / DIFFUSION, name, step, error)
                return {}

        return Hook(name, every, call_or_warn)

    hooks = []
    if config.sample_every:
        hooks.append(hook('grid', config.sample_every, _draw_grids(run, writer)))
    if config.evaluate_every:
        hooks.append(hook('evaluation', config.evaluate_every, _evaluate_samples(run)))
    return hooks


def _draw_grids(run: Run, writer: MetricsWriter) -> Call:
    config = run.experiment.sample
    conditioning = _reduced_images(run) if run.experiment.unet.low_res else make_conditioning(run)

    def draw_grid(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
        images, labels = draw_while_training(run, state, conditioning, np.arange(config.batch_size))
        names = class_names(run.source('train')) if run.experiment.unet.num_classes is not None else None
        grid = class_grid(images.__getitem__, labels, config.grid_columns, names)
        if jax.process_index() == 0:
            path = run.workdir / DIFFUSION / 'grids' / f'step_{step:08d}.png'
            try:
                save_png(path, grid)
            except OSError as error:  # no result depends on it
                logger.warning('%s: cannot be written (%s); left out', path, reason(error))
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


def _evaluate_samples(run: Run) -> Call:
    """Extracts the reference's features now, into the workdir, where the stage `evaluate` finds them."""
    batch_size, num_samples = run.experiment.sample.batch_size, run.experiment.train.evaluate_samples
    reference = evaluate.open_reference(run.unguided(num_samples))
    extractor = evaluate.extractor_of(run.on(local_mesh(run.mesh)), reference)
    reference = with_features(reference, extractor, run.stop, REFERENCE_ROWS)
    conditioning = make_conditioning(run)

    def call(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
        features = []
        for first in range(0, num_samples, batch_size):
            index = np.arange(first, first + batch_size)
            images, _ = draw_while_training(run, state, conditioning, index)
            with evaluate.fits(run):
                for start in range(0, len(images), extractor.batch_size):
                    features.append(extractor.apply(images[start : start + extractor.batch_size])[FEATURES])
            leave_if(stop)
        samples = EvalSet('samples', None, of_features(np.concatenate(features)[:num_samples]))
        result = comparison.evaluate(samples, reference, extractor, run.stop)
        return {f'sample_{name}': value for name, value in result.items() if isinstance(value, float)}

    return call
