"""Denoisers: the functions that samplers evaluate and guidance wraps.

A denoiser estimates x_0 and eps at a noise level. It may carry a memory from one evaluation to the next, such
as momentum or a gradient that is used again; most have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.process import Level, Prediction, align, from_x_0

# (x [B, H, W, C], level) → [B], up to a constant: of x_t, or of an estimate of x_0, as the guidance requires.
LogProb = Callable[[Array, Level], Array]


def continuous_level(log_snr: Array) -> Level:
    """The level of a log-SNR for denoisers that use no timestep: t is the log-SNR itself."""
    return Level(log_snr, jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr)))


class Denoiser(NamedTuple):
    """An estimate of the clean image.

    A guidance replaces `call` (and `init`, if it has memory) by `denoise._replace(call=…)`. If it has memory,
    the new memory is the pair (that of the denoiser it wraps, its own).

    Attributes:
      call: (x_t, level, memory) → (prediction, memory).
      init: x_T → the memory before the first evaluation.
      level_at: log-SNR → level, for samplers that evaluate between the levels of their grid.
      variance: the meaning of `Prediction.variance`; see `posterior`.
    """

    call: Callable[[Array, Level, Any], tuple[Prediction, Any]]
    init: Callable[[Array], Any] = lambda x_T: ()
    level_at: Callable[[Array], Level] = continuous_level
    variance: str = 'fixed_small'

    def __call__(self, x_t: Array, level: Level, memory: Any = ()) -> tuple[Prediction, Any]:
        return self.call(x_t, level, memory)


def plain(function: Callable[[Array, Level], Prediction], **fields: Any) -> Denoiser:
    """A denoiser without memory, from (x_t, level) → prediction; `fields` are those of a Denoiser."""
    return Denoiser(lambda x_t, level, memory: (function(x_t, level), memory), **fields)


def clip(denoise: Denoiser) -> Denoiser:
    """Clamps the predicted x_0 to [−1, 1] and derives eps from it."""

    def clipped(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, memory = denoise(x_t, level, memory)
        x_0, eps, *_ = from_x_0(jnp.clip(prediction.x_0, -1, 1), x_t, level)
        return prediction._replace(x_0=x_0, eps=eps), memory

    return denoise._replace(call=clipped)


def add_gradient(prediction: Prediction, gradient: Array) -> Prediction:
    """Adds a gradient to that of the prediction."""
    if prediction.gradient is not None:
        gradient = gradient + prediction.gradient
    return prediction._replace(gradient=gradient)


def score_shift(denoise: Denoiser) -> Denoiser:
    """Applies the collected gradient, if any: ε̂ = eps − √(1−ᾱ)·gradient, and the x_0 that follows.

    2105.05233, Algorithm 2.
    """

    def shifted(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, memory = denoise(x_t, level, memory)
        if prediction.gradient is None:
            return prediction, memory
        _, alpha, sigma = align(level, x_t)
        x_0 = prediction.x_0 + sigma**2 / alpha * prediction.gradient
        return Prediction(x_0, prediction.eps - sigma * prediction.gradient, prediction.variance), memory

    return denoise._replace(call=shifted)
