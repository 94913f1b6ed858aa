"""The diffusion process: levels, transitions, and the one place where parameterizations are converted.

    x_t = signal·x_0 + noise·eps,  signal = √ᾱ_t,  noise = √(1−ᾱ_t)         DDPM (2006.11239), eq. 4
    q(x_{t-1}|x_t, x_0) = N(mean_x0·x_0 + mean_xt·x_t, β̃_t)                DDPM, eq. 6 and 7
    p(x_{t-1}|x_t) = N(mean_x0·x̂_0 + mean_xt·x_t, Σ)                       DDPM, eq. 11
    Σ = exp(f·log β_t + (1−f)·log β̃_t)                                     Improved DDPM (2102.09672), eq. 15

A denoiser estimates x_0 (x̂_0) and eps from x_t; whichever its network predicts, the other follows from the
first line. Images are [B, H, W, C]; a coefficient is [] or [B] and belongs to whole images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Level(NamedTuple):
    """How noisy x_t is. Arrays of one shape, [] or [B] or [T]; t is what the network's embedding sees."""

    t: Array
    signal: Array
    noise: Array


class Transition(NamedTuple):
    """One step of the process and the constants of the posterior over it: one row of a schedule's table.

    Before the first timestep stands the clean image: previous.signal = 1, previous.noise = 0.
    """

    level: Level
    previous: Level
    mean_x0: Array
    mean_xt: Array
    log_beta: Array
    log_posterior: Array
    log_large: Array


class Prediction(NamedTuple):
    """What a denoiser returns; arrays like x_t.

    variance: the network's second half, raw: the range value v in [−1, 1] or the log-variance.
    mean: only of a network that predicts x_{t-1}: the posterior mean is its output, also when x_0 is clipped.
    gradient: s·∇ log p(y|x_t), collected by guidance and not yet applied.
    """

    x_0: Array
    eps: Array
    variance: Array | None = None
    mean: Array | None = None
    gradient: Array | None = None


class Gaussian(NamedTuple):
    """A diagonal normal; all three broadcast against x. log_variance is finite where variance is 0."""

    mean: Array
    variance: Array
    log_variance: Array


Denoiser = Callable[[Array, Transition], Prediction]


def align(coefficients: Any, x: Array) -> Any:
    """Every array of a pytree, [] or [B], with the trailing axes that let it broadcast against x [B, …]."""
    return jax.tree.map(lambda c: jnp.reshape(c, jnp.shape(c) + (1,) * (x.ndim - jnp.ndim(c))), coefficients)


def is_last(transition: Transition) -> Array:
    """Whether the transition ends at the clean image, where nothing is random any more."""
    return transition.previous.noise == 0


def add_noise(x_0: Array, eps: Array, level: Level) -> Array:
    """x_t ~ q(x_t|x_0) (DDPM, eq. 4)."""
    level = align(level, x_0)
    return level.signal * x_0 + level.noise * eps


def marginal(x_0: Array, level: Level) -> Gaussian:
    """q(x_t|x_0) (DDPM, eq. 4)."""
    level = align(level, x_0)
    return Gaussian(level.signal * x_0, level.noise**2, 2 * jnp.log(level.noise))


def x_0_from_eps(eps: Array, x_t: Array, level: Level) -> Array:
    """The x_0 that with this eps makes x_t."""
    level = align(level, x_t)
    return (x_t - level.noise * eps) / level.signal


def eps_from_x_0(x_0: Array, x_t: Array, level: Level) -> Array:
    """The eps that with this x_0 makes x_t."""
    level = align(level, x_t)
    return (x_t - level.signal * x_0) / level.noise


def split(output: Array, x_t: Array) -> tuple[Array, Array | None]:
    """The two halves of a network's channels: its prediction, and the raw variance if there is one."""
    channels = x_t.shape[-1]
    return output[..., :channels], output[..., channels:] if output.shape[-1] > channels else None


def predict(output: Array, x_t: Array, transition: Transition, kind: str) -> Prediction:
    """What the network's output says of x_0 and eps: the one conversion between parameterizations.

    Args:
      output: [B, H, W, C], or [B, H, W, 2C] with the raw variance in the second half.
      kind: what the network predicts: 'eps' (DDPM, eq. 15), 'x_0', 'v' = signal·eps − noise·x_0 (Salimans &
        Ho, 2202.00512, appendix D) or 'previous_x', the mean of the posterior.
    """
    value, variance = split(output, x_t)
    return _PREDICTIONS[kind](value, x_t, transition)._replace(variance=variance)


def _from_eps(eps: Array, x_t: Array, transition: Transition) -> Prediction:
    return Prediction(x_0_from_eps(eps, x_t, transition.level), eps)


def _from_x_0(x_0: Array, x_t: Array, transition: Transition) -> Prediction:
    return Prediction(x_0, eps_from_x_0(x_0, x_t, transition.level))


def _from_v(v: Array, x_t: Array, transition: Transition) -> Prediction:
    level = align(transition.level, x_t)
    return Prediction(level.signal * x_t - level.noise * v, level.noise * x_t + level.signal * v)


def _from_previous_x(mean: Array, x_t: Array, transition: Transition) -> Prediction:
    mean_x0, mean_xt = align((transition.mean_x0, transition.mean_xt), x_t)
    return _from_x_0((mean - mean_xt * x_t) / mean_x0, x_t, transition)._replace(mean=mean)


_PREDICTIONS = {'eps': _from_eps, 'x_0': _from_x_0, 'v': _from_v, 'previous_x': _from_previous_x}


def posterior(prediction: Prediction, x_t: Array, transition: Transition, variance: str) -> Gaussian:
    """p(x_{t-1}|x_t), without guidance (DDPM, eq. 11).

    variance: 'fixed_small' is β̃, which is 0 at the last transition; 'fixed_large' is β, but at the last
      transition β̃ of the one before it; 'learned' is the network's log-variance; 'learned_range' lies between
      β̃ (v = −1) and β (v = 1) in the logarithm (Improved DDPM, eq. 15), v not being clamped.
    """
    transition = align(transition, x_t)
    mean = prediction.mean
    if mean is None:
        mean = transition.mean_x0 * prediction.x_0 + transition.mean_xt * x_t
    log_variance = _LOG_VARIANCES[variance](transition, prediction.variance)
    value = jnp.exp(log_variance)
    if variance == 'fixed_small':
        value = jnp.where(is_last(transition), 0.0, value)
    return Gaussian(mean, value, log_variance)


def _learned_range(transition: Transition, v: Array) -> Array:
    fraction = (v + 1) / 2
    return fraction * transition.log_beta + (1 - fraction) * transition.log_posterior


_LOG_VARIANCES = {
    'fixed_small': lambda transition, _: transition.log_posterior,
    'fixed_large': lambda transition, _: transition.log_large,
    'learned': lambda _, log_variance: log_variance,
    'learned_range': _learned_range,
}


def true_posterior(x_0: Array, x_t: Array, transition: Transition) -> Gaussian:
    """q(x_{t-1}|x_t, x_0) (DDPM, eq. 6 and 7)."""
    exact = _from_x_0(x_0, x_t, transition)
    return posterior(exact, x_t, transition, 'fixed_small')
