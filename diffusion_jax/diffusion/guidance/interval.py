"""Guidance in an interval of noise levels (Kynkäänniemi et al., 2404.07724). Outside it is not computed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models, wrapped_memory
from diffusion_jax.diffusion.parts import LARGEST, Number, option
from diffusion_jax.diffusion.process import Level, Prediction


def within(guided: Denoiser, denoise: Denoiser, low: Number, high: Number) -> Denoiser:
    """`guided` where low ≤ edm_sigma < high, elsewhere `denoise`, which it wraps; levels are []."""

    def choose(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        def inside(memory: Any) -> tuple[Prediction, Any]:
            prediction, memory = guided(x_t, level, memory)
            return _with_gradient(prediction), memory

        def outside(memory: Any) -> tuple[Prediction, Any]:
            inner, replace = wrapped_memory(memory, denoise, x_t)
            prediction, inner = denoise(x_t, level, inner)
            return _with_gradient(prediction), replace(inner)

        sigma = level.edm_sigma
        return jax.lax.cond((low <= sigma) & (sigma < high), inside, outside, memory)

    return guided._replace(call=choose)


def _with_gradient(prediction: Prediction) -> Prediction:
    """The prediction with a gradient: both branches of a `cond` must have the same structure."""
    if prediction.gradient is None:
        return prediction._replace(gradient=jnp.zeros_like(prediction.x_0))
    return prediction


class Interval(Guidance):
    """A guidance in an interval of noise levels.

    Attributes:
      guidance: the guidance that acts inside the interval.
      low, high: it acts where low ≤ σ < high; σ is that of EDM, sigma/alpha, for images in [−1, 1].
    """

    guidance: Guidance
    low: Number = option(0.0)
    high: Number = option(LARGEST)

    @property
    def before_clip(self) -> bool:
        return self.guidance.before_clip

    @property
    def needs(self) -> tuple[str, ...]:
        return self.guidance.needs

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return within(self.guidance.wrap(denoise, models), denoise, self.low, self.high)
