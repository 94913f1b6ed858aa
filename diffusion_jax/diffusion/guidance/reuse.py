"""Compressed guidance (2408.11194): a new gradient at every k-th evaluation, reused in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, add_gradient
from diffusion_jax.diffusion.guidance.guidance import Modifier, wrapped_memory
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Prediction


def reused(guide: Callable[[Denoiser], Denoiser], denoise: Denoiser, every: Number) -> Denoiser:
    """`guide(denoise)`, its gradient computed at every k-th evaluation; gradients of `denoise` are added.

    every: k, [] int32, at least 1; the first evaluation computes.
    """
    apart = _apart(denoise)
    guided = guide(apart)

    def choose(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        memory, (last, count) = memory

        def fresh(memory: Any) -> tuple[Prediction, Any]:
            prediction, memory = guided(x_t, level, memory)
            if prediction.gradient is None:
                raise TypeError('only guidance by a gradient can be reused')
            return prediction, memory

        def again(memory: Any) -> tuple[Prediction, Any]:
            inner, replace = wrapped_memory(memory, apart, x_t)
            prediction, inner = apart(x_t, level, inner)
            return prediction._replace(gradient=last), replace(inner)

        prediction, memory = jax.lax.cond(count % every == 0, fresh, again, memory)
        (_, others), _ = wrapped_memory(memory, apart, x_t)
        return add_gradient(prediction, others), (memory, (prediction.gradient, count + 1))

    def init(x_T: Array) -> Any:
        return guided.init(x_T), (jnp.zeros_like(x_T), jnp.zeros((), jnp.int32))

    return guided._replace(call=choose, init=init)


def _apart(denoise: Denoiser) -> Denoiser:
    """The denoiser with its gradient (0 if it has none) moved from its prediction to its memory."""

    def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, inner = denoise(x_t, level, memory[0])
        gradient = jnp.zeros_like(x_t) if prediction.gradient is None else prediction.gradient
        return prediction._replace(gradient=None), (inner, gradient)

    return denoise._replace(call=call, init=lambda x_T: (denoise.init(x_T), jnp.zeros_like(x_T)))


class Reuse(Modifier):
    """A guidance by a gradient that is computed at every k-th evaluation only.

    Attributes:
      every: k, counted in evaluations of the denoiser.
    """

    every: Number = option(2, least=1, whole=True)

    def modify(self, guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
        return reused(guide, denoise, self.every)
