"""Extrapolation from a weak denoiser to a strong one: what classifier-free guidance and its relatives share.

    ε̂ = ε_weak + w·(ε_strong − ε_weak)

The relatives differ in the weak denoiser alone: the model without a class, another network, a random class,
or the model with a defect. Each costs one more evaluation of a network. Between two Gaussians the result is
affine in x_t; for w other than 0 and 1 its law is not p_strong^w·p_weak^(1−w), whatever the sampler.
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


class Extrapolation(Guidance):
    """Extrapolation from `weak(models)` to the denoiser.

    Attributes:
      scale: w; 1 is the denoiser, 0 the weak one.
    """

    scale: Number = option(default=1.0, per_image=True)
    before_clip: ClassVar[bool] = True

    def weak(self, models: Models) -> Denoiser:
        raise NotImplementedError

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return extrapolate(denoise, self.weak(models), self.scale)
