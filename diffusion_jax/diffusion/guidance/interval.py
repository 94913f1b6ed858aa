"""Guidance in an interval of noise levels (Kynkäänniemi et al., 2404.07724). Outside it is not computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import Modifier, wrapped_memory
from diffusion_jax.diffusion.parts import LARGEST, Number, option
from diffusion_jax.diffusion.process import Level, Prediction


def within(guided: Denoiser, denoise: Denoiser, low: Number, high: Number) -> Denoiser:
    """`guided` where low ≤ edm_sigma < high, elsewhere `denoise`, which it wraps; levels are []."""

    def outside(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        inner, replace = wrapped_memory(memory, denoise, x_t)
        prediction, inner = denoise(x_t, level, inner)
        return prediction, replace(inner)

    # `jit` keeps the trace, so that `eval_shape` and `cond` trace each network once.
    branches = jax.jit(guided.call), jax.jit(outside)

    def choose(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        missing = [jax.eval_shape(each, x_t, level, memory)[0].gradient is None for each in branches]
        both = branches if all(missing) else map(_with_gradient, branches)
        sigma = level.edm_sigma
        return jax.lax.cond((low <= sigma) & (sigma < high), *both, x_t, level, memory)

    return guided._replace(call=choose)


def _with_gradient(call: Callable[..., tuple[Prediction, Any]]) -> Callable[..., tuple[Prediction, Any]]:
    """`call` with a gradient of 0 if it has none: both branches of a `cond` must have the same structure."""

    def with_gradient(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, memory = call(x_t, level, memory)
        if prediction.gradient is None:
            prediction = prediction._replace(gradient=jnp.zeros_like(prediction.x_0))
        return prediction, memory

    return with_gradient


class Interval(Modifier):
    """A guidance in an interval of noise levels.

    Attributes:
      low, high: it acts where low ≤ σ < high; σ is that of EDM, sigma/alpha, for images in [−1, 1].
    """

    low: Number = option(0.0)
    high: Number = option(LARGEST)

    def modify(self, guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
        return within(guide(denoise), denoise, self.low, self.high)
