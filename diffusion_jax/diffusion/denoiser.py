"""Denoisers: the functions that samplers evaluate and guidance wraps.

A denoiser estimates x_0 and eps at a noise level. It may carry a memory from one evaluation to the next, such
as momentum or a gradient that is used again; most have none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.parts import Number
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
      log_prob: (x_0, the clean level) → s·log p(y|x_0), [B], summed over the guidances that have one: the
        target of samplers with weights, which alone use it. Modifiers of a guidance do not change it.
    """

    call: Callable[[Array, Level, Any], tuple[Prediction, Any]]
    init: Callable[[Array], Any] = lambda x_T: ()
    level_at: Callable[[Array], Level] = continuous_level
    variance: str = 'fixed_small'
    log_prob: LogProb | None = None

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


def add_gradient(prediction: Prediction, gradient: Array, log_prob: Array | None = None) -> Prediction:
    """Adds a gradient to that of the prediction, and the log-probability [B] that it is the gradient of."""
    if prediction.gradient is not None:
        gradient = gradient + prediction.gradient
    return add_log_prob(prediction, log_prob)._replace(gradient=gradient)


def add_log_prob(prediction: Prediction, log_prob: Array | None) -> Prediction:
    """Adds a log-probability [B] to that of the prediction."""
    if prediction.log_prob is not None and log_prob is not None:
        log_prob = log_prob + prediction.log_prob
    return prediction if log_prob is None else prediction._replace(log_prob=log_prob)


def tilt(denoise: Denoiser, log_prob: LogProb, scale: Number) -> LogProb:
    """The `Denoiser.log_prob` of a guidance by scale·log_prob; scale: [] or [B]."""

    def tilted(x_0: Array, level: Level) -> Array:
        value = scale * log_prob(x_0, level)
        return value if denoise.log_prob is None else value + denoise.log_prob(x_0, level)

    return tilted


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
