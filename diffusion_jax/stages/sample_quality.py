"""Metrics of a diffusion model's samples while it is trained."""

from __future__ import annotations

import logging

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation import comparison
from diffusion_jax.evaluation.eval_set import EvalSet, with_features
from diffusion_jax.evaluation.extractors import FEATURES
from diffusion_jax.evaluation.feature_stats import REFERENCE_ROWS, of_features
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.sharding import local_mesh
from diffusion_jax.stages import evaluate
from diffusion_jax.stages.conditioning import make_conditioning
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import draw_while_training
from diffusion_jax.stored_networks import DIFFUSION
from diffusion_jax.training.loop import Call, Stop, leave_if
from diffusion_jax.training.step import TrainState

logger = logging.getLogger(__name__)


def evaluate_samples(run: Run) -> Call:
    """Computes metrics of unguided samples, sampled with the average that sampling will use and not kept.

    Extracts the reference's features now, into the workdir, where the stage `evaluate` finds them.
    """
    batch_size, num_samples = run.experiment.sample.batch_size, run.experiment.train.evaluate_samples
    reference = evaluate.open_reference(run, guided=False, num_samples=num_samples)
    extractor = evaluate.extractor_of(run.on(local_mesh(run.mesh)), reference)
    reference = with_features(reference, extractor, run.stop, REFERENCE_ROWS)
    conditioning = make_conditioning(run)

    def call(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
        features = []
        for first in range(0, num_samples, batch_size):
            index = np.arange(first, first + batch_size)
            try:
                images, _ = draw_while_training(run, state, conditioning, index)
            except NotFinite as error:
                logger.warning('%s: no evaluation at step %d: %s', run.workdir / DIFFUSION, step, error)
                return {}
            with evaluate.fits(run):
                for start in range(0, len(images), extractor.batch_size):
                    features.append(extractor.apply(images[start : start + extractor.batch_size])[FEATURES])
            leave_if(stop)
        samples = EvalSet('samples', None, of_features(np.concatenate(features)[:num_samples]))
        result = comparison.evaluate(samples, reference, extractor, run.stop)
        return {f'sample_{name}': value for name, value in result.items() if isinstance(value, float)}

    return call


def check_quality(run: Run) -> None:
    """Raises UserError if training could not evaluate samples."""
    if run.experiment.unet.low_res:
        raise UserError(
            'config.train.evaluate_every',
            'is set, but an upsampler is evaluated only by the stages sample and evaluate',
            'set it to 0',
        )
    evaluate.check(run.on(local_mesh(run.mesh)), guided=False)
