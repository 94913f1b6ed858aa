"""Classifier guidance (2105.05233, section 4): tilts p(x) towards p(x)·p(y|x)^s by the classifier's gradient.

The guided prediction carries the gradient g = s·∇ log p(y|x_t), which the sampler applies:

    x_{t-1} ~ N(μ + Σ·g, Σ)                    Algorithm 1: DDPM
    ε̂ = eps − √(1−ᾱ_t)·g                       Algorithm 2 (eq. 14): `score_shift`, for every other sampler

As in the authors' release the gradient is taken at x_t, where Algorithm 1 has μ; x_0 is clipped before
guidance and not after it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient, tilt
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.log_probs import with_gradient
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, align


def classifier_guidance(denoise: Denoiser, log_prob: LogProb, scale: Number) -> Denoiser:
    """Adds scale·∇ log_prob(x_t, level) to the prediction's gradient; scale: s, [] or [B]."""

    def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, memory = denoise(x_t, level, memory)
        value, gradient = with_gradient(log_prob, x_t, level)
        return add_gradient(prediction, align(scale, x_t) * gradient, scale * value), memory

    return denoise._replace(call=guided, log_prob=tilt(denoise, log_prob, scale))


def pick(values: Array, y: Array) -> Array:
    """The values [B, K] of the classes y [B]."""
    return jnp.take_along_axis(values, y[:, None], axis=1)[:, 0]


class ClassifierGuidance(Guidance):
    """Guidance by the gradient of log p(y|x_t).

    Attributes:
      scale: s of the gradient.
      log_prob: (x_t, level) → [B], differentiable; by default that of the noise-aware classifier.
    """

    scale: Number = option(default=1.0, per_image=True)
    log_prob: LogProb | None = static(default=None)
    asks_once: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.log_prob else ('log_prob',)

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return classifier_guidance(denoise, self.log_prob or models.log_prob, self.scale)
