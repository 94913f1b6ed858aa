"""Compressed guidance (2408.11194): a new gradient at every k-th evaluation, the last one in between."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, add_gradient
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Prediction


def reused(guided: Denoiser, denoise: Denoiser, every: Number) -> Denoiser:
    """What `guided` adds to the gradient of `denoise`, which it wraps, computed at every k-th evaluation.

    every: k, [] int32, at least 1; the first evaluation computes.
    """

    def choose(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        one, two, last, count = memory

        def fresh(_: None) -> tuple[Prediction, Any]:
            prediction, following = guided(x_t, level, one)
            if prediction.gradient is None:
                raise TypeError('only guidance by a gradient can be reused')
            added = prediction.gradient
            if jax.eval_shape(denoise.call, x_t, level, two)[0].gradient is not None:
                added -= denoise(x_t, level, two)[0].gradient  # of guidances before this one
            return prediction, (following, two, added, count + 1)

        def again(_: None) -> tuple[Prediction, Any]:
            prediction, following = denoise(x_t, level, two)
            return add_gradient(prediction, last), (one, following, last, count + 1)

        return jax.lax.cond(count % every == 0, fresh, again, None)

    def init(x_T: Array) -> Any:
        return guided.init(x_T), denoise.init(x_T), jnp.zeros_like(x_T), jnp.zeros((), jnp.int32)

    return guided._replace(call=choose, init=init)


class Reuse(Guidance):
    """A guidance by a gradient that is computed at every k-th evaluation only.

    Attributes:
      guidance: classifier guidance, or any other by a gradient.
      every: k.
    """

    guidance: Guidance
    every: Number = option(2, least=1, whole=True)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.guidance.needs

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return reused(self.guidance.wrap(denoise, models), denoise, self.every)
