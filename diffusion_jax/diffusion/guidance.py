"""Guidance: functions from denoiser to denoiser.

Classifier guidance (2105.05233, section 4) tilts p(x) towards p(x)·p(y|x)^s with the gradient of a classifier
on noisy images. Guided, the gradient g = s·∇ log p(y|x_t) stands beside the prediction, and the sampler
applies it in one of two ways:

    x_{t-1} ~ N(μ + Σ·g, Σ)                    Algorithm 1: `samplers.ddpm`
    ε̂ = eps − √(1−ᾱ_t)·g                       Algorithm 2 (eq. 14): `score_shift`, for every other sampler

The gradient is taken at x_t, as in the authors' release, where Algorithm 1 has μ. Clip before guidance:
`classifier_guidance(clip(denoise), …)`; the x_0 that `score_shift` moved is not clamped again.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.process import (
    Denoiser,
    Level,
    Prediction,
    Transition,
    align,
    eps_from_x_0,
    x_0_from_eps,
)

# (x_t [B, H, W, C], its level) → [B], up to a constant.
LogProb = Callable[[Array, Level], Array]


def clip(denoise: Denoiser) -> Denoiser:
    """Clamps the predicted x_0 to [−1, 1], the range of images, and derives eps from it again."""

    def clipped(x_t: Array, transition: Transition) -> Prediction:
        prediction = denoise(x_t, transition)
        x_0 = jnp.clip(prediction.x_0, -1, 1)
        return prediction._replace(x_0=x_0, eps=eps_from_x_0(x_0, x_t, transition.level))

    return clipped


def classifier_guidance(
    denoise: Denoiser, log_prob: Callable[[Array, Array], Array], scale: Array | float
) -> Denoiser:
    """Adds scale·∇ log p(y|x_t) to the prediction's gradient and changes nothing else.

    Guidance by several classifiers composes: their gradients add.

    Args:
      log_prob: (x_t [B, H, W, C], t) → log p(y|x_t) [B]; t is the level's, as the networks see it.
      scale: s, [] or [B].
    """

    return log_prob_guidance(denoise, lambda x_t, level: log_prob(x_t, level.t), scale)


def log_prob_guidance(denoise: Denoiser, log_prob: LogProb, scale: Array | float) -> Denoiser:
    """Adds scale·∇ log_prob(x_t, level) to the prediction's gradient, log_prob being any of noisy images.

    Args:
      log_prob: see `LogProb`; the level's arrays are [B].
      scale: [] or [B].
    """

    def guided(x_t: Array, transition: Transition) -> Prediction:
        prediction = denoise(x_t, transition)
        gradient = jax.grad(lambda x: jnp.sum(log_prob(x, transition.level)))(x_t)
        gradient = align(scale, x_t) * gradient
        if prediction.gradient is not None:
            gradient += prediction.gradient
        return prediction._replace(gradient=gradient)

    return guided


def score_shift(denoise: Denoiser) -> Denoiser:
    """Applies the collected gradient to the score: ε̂ = eps − √(1−ᾱ)·gradient, and the x_0 that follows.

    (Algorithm 2 of 2105.05233.) Without a gradient the prediction stays as it is.
    """

    def shifted(x_t: Array, transition: Transition) -> Prediction:
        prediction = denoise(x_t, transition)
        if prediction.gradient is None:
            return prediction
        eps = prediction.eps - align(transition.level.noise, x_t) * prediction.gradient
        return Prediction(x_0_from_eps(eps, x_t, transition.level), eps, prediction.variance)

    return shifted
