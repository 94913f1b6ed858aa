"""Guidance on the estimate of x_0: the gradient of log p(y|x̂_0(x_t)) at x_t, through the denoiser.

    reconstruction    g = s·∇_{x_t} log p(y|x̂_0)                       2302.07121; DPS, 2209.14687
    monte_carlo       g = s·∇_{x_t} log (1/K) Σ_k p(y|x̂_0 + spread·sigma·z_k), z_k ~ N(0, 1)
                                                                       LGD, Song et al., ICML 2023

The log-probability need not be trained on noisy images. With the variance of x_0 given x_t in it, the first
is ΠGDM. Both cost one evaluation of the network and its gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient, tilt
from diffusion_jax.diffusion.guidance.guidance import EstimateGuidance, Models
from diffusion_jax.diffusion.log_probs import smoothed
from diffusion_jax.diffusion.parts import Number, option, static
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
        return reconstruction_guidance(denoise, self.log_prob_of(models), self.scale)


class MonteCarloGuidance(EstimateGuidance):
    """Guidance by the gradient of the mean probability of images around x̂_0, through the denoiser.

    It costs K evaluations of the log-probability and their gradients. The draws are new at every evaluation.
    Per image they depend on its key alone.

    Attributes:
      scale: s of the gradient.
      spread: of the images, as a multiple of sigma = √(1−ᾱ).
      draws: K.
    """

    spread: Number = option(default=1.0)
    draws: int = static(default=4, values=1)

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        log_prob = self.log_prob_of(models)

        def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            inner, count = memory

            def draw(key: Array) -> Array:
                shape = self.draws, *x_t.shape[1:]
                return jax.random.normal(jax.random.fold_in(key, count), shape, x_t.dtype)

            draws = jax.vmap(draw, out_axes=1)(models.keys)
            smooth = smoothed(log_prob, draws, self.spread)
            prediction, inner = reconstruction_guidance(denoise, smooth, self.scale)(x_t, level, inner)
            return prediction, (inner, count + 1)

        def init(x_T: Array) -> Any:
            return denoise.init(x_T), jnp.zeros((), jnp.int32)

        of_images = tilt(denoise, log_prob, self.scale)
        return denoise._replace(call=guided, init=init, log_prob=of_images)
