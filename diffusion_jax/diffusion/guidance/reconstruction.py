"""Guidance on the estimate of x_0: the gradient of log p(y|x̂_0(x_t)) at x_t, through the denoiser.

The log-probability need not be trained on noisy images (universal guidance, 2302.07121; DPS, 2209.14687).
With the variance of x_0 given x_t in it, this is ΠGDM.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, align


def reconstruction_guidance(denoise: Denoiser, log_prob: LogProb, scale: Number) -> Denoiser:
    """Adds scale·∇ log_prob(x̂_0(x_t), level) to the prediction's gradient; 0 where x̂_0 is clipped.

    log_prob: of the estimate of x_0 and the level of x_t.
    scale: [] or [B].
    """

    def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        def value(x: Array) -> tuple[Array, tuple[Prediction, Any]]:
            prediction, following = denoise(x, level, memory)
            return jnp.sum(log_prob(prediction.x_0, level)), (prediction, following)

        gradient, (prediction, following) = jax.grad(value, has_aux=True)(x_t)
        return add_gradient(prediction, align(scale, x_t) * gradient), following

    return denoise._replace(call=guided)


def of_clean_images(function: LogProb) -> LogProb:
    """A function of x_t and its level, such as a noise-aware classifier, at the level of clean images."""

    def at_clean_images(x_0: Array, level: Level) -> Array:
        clean = Level(jnp.zeros_like(level.t), jnp.ones_like(level.alpha), jnp.zeros_like(level.sigma))
        return function(x_0, clean)

    return at_clean_images


class ReconstructionGuidance(Guidance):
    """Guidance by the gradient of log p(y|x̂_0), through the denoiser.

    Attributes:
      scale: of the gradient.
      log_prob: (x̂_0, level of x_t) → [B], differentiable; by default the classifier's, of a clean image.
    """

    scale: Number = option(default=1.0, per_image=True)
    log_prob: LogProb | None = static(default=None)

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.log_prob else ('log_prob',)

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        log_prob = self.log_prob or of_clean_images(models.log_prob)
        return reconstruction_guidance(denoise, log_prob, self.scale)
