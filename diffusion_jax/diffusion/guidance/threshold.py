"""Dynamic thresholding (Imagen, 2205.11487, section 2.3): large estimates are scaled, not only clipped.

    x̂_0 → clip(x̂_0, −s, s)/s,  s = max(1, the quantile of |x̂_0| in this image)

Afterwards x̂_0 is in [−1, 1], so that clipping does nothing. It is meant for large scales of classifier-free
guidance, which it must follow.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Prediction, align, from_x_0


class DynamicThreshold(Guidance):
    """Thresholds x_0 at a quantile of each image, in place of clipping.

    Attributes:
      percentile: the quantile, as a fraction; interpolated linearly.
    """

    percentile: Number = option(default=0.995, most=1.0)
    before_clip: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        def thresholded(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            prediction, memory = denoise(x_t, level, memory)
            magnitudes = jnp.abs(prediction.x_0).reshape(len(x_t), -1)
            limit = align(jnp.maximum(jnp.quantile(magnitudes, self.percentile, axis=1), 1.0), x_t)
            x_0, eps, *_ = from_x_0(jnp.clip(prediction.x_0, -limit, limit) / limit, x_t, level)
            return prediction._replace(x_0=x_0, eps=eps), memory

        return denoise._replace(call=thresholded)
