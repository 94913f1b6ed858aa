"""How good the samples of a diffusion model become while it is trained."""

from __future__ import annotations

import logging

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.comparison import compare
from diffusion_jax.evaluation.extractors import FEATURES, Extractor
from diffusion_jax.evaluation.feature_sets import of_features
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.sharding import local_mesh
from diffusion_jax.stages import evaluate
from diffusion_jax.stages.conditioning import make_conditioning
from diffusion_jax.stages.evaluate import make_extractor, matched_reference, reference_features
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import draw_while_training
from diffusion_jax.stored_networks import DIFFUSION
from diffusion_jax.training.loop import Call, Stop, leave_if
from diffusion_jax.training.step import TrainState

logger = logging.getLogger(__name__)


def evaluate_samples(run: Run) -> Call:
    """The metrics of unguided samples, drawn with the average that sampling will use; none is kept.

    The reference is looked at now; its features stay in the workdir, where the stage `evaluate` finds them.
    """
    config, num_samples = run.experiment.sample, run.experiment.train.evaluate_samples
    side = matched_reference(run, guided=False, num_samples=num_samples).side
    extractor = make_extractor(run.on(local_mesh(run.mesh)), side)
    reference = reference_features(run, side, extractor)
    conditioning = make_conditioning(run)

    def call(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
        features = []
        for first in range(0, num_samples, config.batch_size):
            index = np.arange(first, first + config.batch_size)
            try:
                images, _ = draw_while_training(run, state, conditioning, index)
            except NotFinite as error:
                logger.warning('%s: no evaluation at step %d: %s', run.workdir / DIFFUSION, step, error)
                return {}
            with evaluate.fits(run):
                features.append(_features(extractor, images))
            leave_if(stop)
        found = compare(of_features(np.concatenate(features)[:num_samples]), reference, extractor.logits)
        return {f'sample_{name}': value for name, value in found.items()}

    return call


def _features(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    """float32 [N, D] of uint8 [N, H, W, C]."""
    parts = range(0, len(images), extractor.batch_size)
    return np.concatenate(
        [extractor.apply(images[first : first + extractor.batch_size])[FEATURES] for first in parts]
    )


def check_quality(run: Run) -> None:
    """UserError where training could not do what `train.evaluate_every` asks for."""
    if run.experiment.unet.low_res:
        raise UserError(
            'config.train.evaluate_every is set; an upsampler is evaluated by the stages sample and evaluate '
            'alone, on samples that it enlarges: set it to 0'
        )
    evaluate.check(run.on(local_mesh(run.mesh)), guided=False)
