"""Self-attention guidance (2210.00939): extrapolation away from an image blurred where the model looks.

    M = [attention that a pixel receives > ψ]
    x̃_t = alpha·(M·blur(x̂_0) + (1−M)·x̂_0) + sigma·ε
    ε̂ = ε(x̃_t) + w·(ε(x_t) − ε(x̃_t))

The attention is that of one block, the mean over its heads and the sum over the pixels that attend, which is
1 on average. w is 1 plus the scale s of that paper. It needs no classes and no other network, and costs two
more evaluations: one at x_t, for the attention, and one at x̃_t.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, plain
from diffusion_jax.diffusion.guidance.extrapolation import Extrapolation
from diffusion_jax.diffusion.guidance.guidance import Models
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, add_noise

RADIUS = 15  # of the blur, in pixels; less where the image is smaller


def gaussian_blur(x: Array, std: Number) -> Array:
    """Images [B, H, W, C], blurred with a standard deviation in pixels, above 0; the edges are reflected."""
    rows, columns = (_blur_matrix(size, std).astype(x.dtype) for size in x.shape[1:3])
    return jnp.einsum('ih,jw,bhwc->bijc', rows, columns, x, precision='highest')


def _blur_matrix(size: int, std: Number) -> Array:
    """[size, size]: row i has the weights of all pixels of a line in pixel i."""
    radius, here = min(RADIUS, size - 1), np.arange(size)[:, None]
    offsets = np.arange(-radius, radius + 1)
    weights = jax.nn.softmax(-0.5 * (offsets / std) ** 2)
    source = np.pad(np.arange(size), radius, mode='reflect')[here + radius + offsets]
    return jnp.zeros((size, size)).at[here, source].add(weights)


class SAG(Extrapolation):
    """Extrapolation away from the prediction for an image that is blurred where the model looks.

    Attributes:
      scale: w; 1 is the model.
      blur: the standard deviation of the blur in pixels; the authors use 3 for images of 128×128 and 256×256.
      threshold: ψ, of the attention that a pixel receives.
      block: of the network, as in `PAG`.
    """

    blur: Number = option(default=3.0, least=1e-3)
    threshold: Number = option(default=1.0)
    block: str = static(default='middle', values=str)
    needs: ClassVar[tuple[str, ...]] = ('perturbed', 'attended')

    @property
    def blocks(self) -> tuple[str, ...]:
        return (self.block,)

    def weak(self, models: Models) -> Denoiser:
        attended, denoise = models.attended(self.block), models.perturbed(())

        def predict(x_t: Array, level: Level) -> Prediction:
            prediction, received = attended(x_t, level)
            mask = jnp.asarray(received > self.threshold, x_t.dtype)[..., None]
            mask = jax.image.resize(mask, (*x_t.shape[:3], 1), 'nearest')
            x_0 = prediction.x_0 + mask * (gaussian_blur(prediction.x_0, self.blur) - prediction.x_0)
            blurred, _ = denoise(add_noise(x_0, prediction.eps, level), level)
            return blurred

        return plain(predict)
