"""Classifier-free guidance (2207.12598): extrapolation away from the prediction without a class.

    ε̂ = ε_null + w·(ε_y − ε_null)

w is 1 plus the w of that paper's eq. 6. The model must be trained with label dropout.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Prediction, align, from_eps


def extrapolate(strong: Denoiser, weak: Denoiser, scale: Number) -> Denoiser:
    """weak + scale·(strong − weak), in eps and `mean`, else as `strong`; scale: [] or [B]."""

    def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        (ours, one), (theirs, two) = strong(x_t, level, memory[0]), weak(x_t, level, memory[1])

        def between(strong: Array, weak: Array) -> Array:
            return weak + align(scale, x_t) * (strong - weak)

        x_0, eps, *_ = from_eps(between(ours.eps, theirs.eps), x_t, level)
        mean = None if ours.mean is None or theirs.mean is None else between(ours.mean, theirs.mean)
        return ours._replace(x_0=x_0, eps=eps, mean=mean), (one, two)

    return strong._replace(call=guided, init=lambda x_T: (strong.init(x_T), weak.init(x_T)))


class ClassifierFreeGuidance(Guidance):
    """Extrapolation from the model without a class to the model with it.

    Attributes:
      scale: w; 1 is the conditional model, 0 the unconditional one.
    """

    scale: Number = option(default=1.0, per_image=True)
    before_clip: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ('null',)

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return extrapolate(denoise, models.null, self.scale)
