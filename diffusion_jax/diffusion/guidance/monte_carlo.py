"""Loss-guided diffusion (LGD, Song et al., ICML 2023): a mean over images around x̂_0.

    g = s·∇_{x_t} log (1/K) Σ_k exp log_prob(x̂_0(x_t) + spread·sigma·z_k),  z_k ~ N(0, 1)

It costs one evaluation of the network and its gradient, and K of the log-probability. The draws are new at
every evaluation. Per image they depend on its key alone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, tilt
from diffusion_jax.diffusion.guidance.guidance import EstimateGuidance, Models
from diffusion_jax.diffusion.guidance.reconstruction import reconstruction_guidance
from diffusion_jax.diffusion.log_probs import smoothed
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction


class MonteCarloGuidance(EstimateGuidance):
    """Guidance by the gradient of the mean probability of images around x̂_0, through the denoiser.

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
