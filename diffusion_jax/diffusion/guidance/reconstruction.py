"""Guidance on the estimate of x_0: the gradient of log p(y|x̂_0(x_t)) at x_t, through the denoiser.

The log-probability need not be trained on noisy images (universal guidance, 2302.07121; DPS, 2209.14687).
With the variance of x_0 given x_t in it, this is ΠGDM.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient, tilt
from diffusion_jax.diffusion.guidance.guidance import EstimateGuidance, Models
from diffusion_jax.diffusion.parts import Number
from diffusion_jax.diffusion.process import Level, Prediction, align


def reconstruction_guidance(denoise: Denoiser, log_prob: LogProb, scale: Number) -> Denoiser:
    """Adds scale·∇ log_prob(x̂_0(x_t), level) to the prediction's gradient; 0 where x̂_0 is clipped.

    log_prob: of the estimate of x_0 and the level of x_t.
    scale: [] or [B].
    """

    def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        def total(x: Array) -> tuple[Array, tuple[Array, Prediction, Any]]:
            prediction, following = denoise(x, level, memory)
            value = log_prob(prediction.x_0, level)
            return jnp.sum(value), (value, prediction, following)

        gradient, (value, prediction, following) = jax.grad(total, has_aux=True)(x_t)
        return add_gradient(prediction, align(scale, x_t) * gradient, scale * value), following

    return denoise._replace(call=guided, log_prob=tilt(denoise, log_prob, scale))


class ReconstructionGuidance(EstimateGuidance):
    """Guidance by the gradient of log p(y|x̂_0), through the denoiser.

    Attributes:
      scale: of the gradient.
    """

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        log_prob = self.log_prob_of(models)
        return reconstruction_guidance(denoise, log_prob, self.scale)
