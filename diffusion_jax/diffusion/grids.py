"""Grids: which noise levels a sampler visits, by name. They need not be those of trained timesteps.

A discrete process with levels ᾱ_t is also a continuous one. With 'fractional' the network is evaluated
at a fractional t, interpolated in log-SNR; with 'nearest' each level becomes the nearest trained one, as in
EDM. Several levels may then be equal: a deterministic sampler does nothing between them, Heun with churn adds
noise and removes it.

    karras:N     N levels, σ = sigma/alpha with equal steps of σ^(1/7), from 80 down to 0.002, or to the
                 process's own limits where these are narrower                   EDM (2206.00364), eq. 5
    log_snr:N    N levels with equal steps of log-SNR, over the whole process    DPM-Solver (2206.00927)
    uniform:N    N levels with equal steps of t
    quadratic:N  N levels with equal steps of √t                                 DDIM (2010.02502), appendix D
    t:900,500,0  these timesteps, as the process counts them
    sigma:80,1   these σ
    '', 250, 90,60,60,20,20, ddim25      see `schedules.respaced_timesteps`

Every grid ends with the step from its last level to the clean image. All of it is float64 on the host.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.process import Level, Transition
from diffusion_jax.diffusion.schedules import Schedule, float64_transitions, make_schedule, respace

TIMESTEPS = ('fractional', 'nearest')
KARRAS_MIN, KARRAS_MAX, KARRAS_RHO = 0.002, 80.0, 7
NO_VARIANCE = 1e-30  # between equal levels, where a logarithm must be finite


def level_at(schedule: Schedule, log_snr: np.ndarray | jax.Array) -> Level:
    """The level of a log-SNR, with the fractional t that lies there between the schedule's.

    Beyond the schedule's ends t stays that of the end. numpy float64, or of JAX where log_snr is.
    """
    xp = jnp if isinstance(log_snr, jax.Array) else np
    t = xp.interp(log_snr, schedule.log_snr[::-1], schedule.t[::-1])
    return Level(t, xp.sqrt(1 / (1 + xp.exp(-log_snr))), xp.sqrt(1 / (1 + xp.exp(log_snr))))


def nearest_level(schedule: Schedule, log_snr: np.ndarray | jax.Array) -> Level:
    """The trained level whose σ = sigma/alpha is nearest to that of a log-SNR."""
    xp = jnp if isinstance(log_snr, jax.Array) else np
    distance = xp.abs(xp.exp(-log_snr / 2)[..., None] - xp.exp(-schedule.log_snr / 2))
    index, alpha_bar = xp.argmin(distance, axis=-1), schedule.alpha_bar
    return Level(*(xp.asarray(a)[index] for a in (schedule.t, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))))


def between(levels: Level) -> Transition:
    """The transitions from each of some levels to the next, numpy float64, [N] for N + 1 levels.

    The last level may be the clean image, Level(0, 1, 0). Where a next level is noisier, the transition adds
    noise (`Transition.renoise`).
    """
    here, there = Level(*(v[:-1] for v in levels)), Level(*(v[1:] for v in levels))
    renoise = there.sigma > here.sigma
    low, high = np.where(renoise, there.alpha, here.alpha), np.where(renoise, here.alpha, there.alpha)
    beta = -np.expm1(2 * (np.log(low) - np.log(high)))
    with np.errstate(divide='ignore'):
        ratio, mean_x0 = (there.sigma / here.sigma) ** 2, there.alpha * beta / here.sigma**2
        log_beta = np.log(np.maximum(beta, NO_VARIANCE))
        log_posterior = log_beta + np.log(ratio)
    first = log_posterior[-2] if len(beta) > 1 else log_beta[-1]
    last = there.sigma == 0
    return Transition(
        level=here,
        next=there,
        mean_x0=np.where(renoise, 0.0, mean_x0),
        mean_xt=np.where(renoise, low / high, here.alpha / there.alpha * ratio),
        log_beta=log_beta,
        log_posterior=np.where(renoise, log_beta, np.where(last, first, log_posterior)),
        log_large=np.where(last, first, log_beta),
        num_steps=np.full(len(beta), len(beta), np.float64),
        renoise=renoise if renoise.any() else None,
    )


def inversion(grid: Transition) -> Transition:
    """A grid reversed: from its least noisy level to its noisiest, for deterministic samplers.

    The clean image is used as x_t of the least noisy level.
    """
    back = Level(*(v[::-1] for v in grid.level))
    here, there = Level(*(v[:-1] for v in back)), Level(*(v[1:] for v in back))
    nothing = np.full(len(here.t), -np.inf)
    return Transition(here, there, log_beta=nothing, num_steps=grid.num_steps[1:] - 1)


def make_grid(config: DiffusionConfig, respacing: str = '', timesteps: str = 'fractional') -> Transition:
    """The grid that a text names, float32 [N] on the host, the noisiest level first.

    timesteps: 'fractional' or 'nearest', of levels that are not those of timesteps.

    Raises:
      ValueError: there is no such grid; the message lists what is possible.
    """
    grid = _float64_grid(config, respacing, timesteps)
    return jax.tree.map(lambda a: a if a.dtype == bool else np.float32(a), grid)


def _float64_grid(config: DiffusionConfig, respacing: str, timesteps: str) -> Transition:
    process = (config.schedule, config.num_timesteps)
    schedule = make_schedule(*process, rescale_timesteps=config.rescale_timesteps)
    name, colon, argument = respacing.partition(':')
    if not colon:
        make_schedule(*process, respacing)  # its constants are finite
        return jax.tree.map(lambda a: a[::-1], float64_transitions(respace(schedule, respacing)))
    if name not in GRIDS:
        raise ValueError(f'{name!r} is not a grid; choose one of {", ".join(GRIDS)}')
    log_snr = GRIDS[name](schedule, argument)
    if config.prediction == 'previous_x':
        raise ValueError(
            "a model that predicts 'previous_x' can only be sampled at its own timesteps, such as '250'"
        )
    level = (nearest_level if timesteps == 'nearest' else level_at)(schedule, log_snr)
    change = np.diff(level.sigma)
    if not ((change <= 0).all() if timesteps == 'nearest' else (change < 0).all()):
        raise ValueError('every level must be less noisy than the one before it')
    return between(Level(*(np.append(a, clean) for a, clean in zip(level, (0.0, 1.0, 0.0), strict=True))))


def _karras(schedule: Schedule, argument: str) -> np.ndarray:
    sigma = np.exp(-schedule.log_snr / 2)
    high, low = min(KARRAS_MAX, sigma[-1]), max(KARRAS_MIN, sigma[0])
    ramp = np.linspace(high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO), _count(argument))
    return -2 * KARRAS_RHO * np.log(ramp)


def _log_snr(schedule: Schedule, argument: str) -> np.ndarray:
    return np.linspace(schedule.log_snr[-1], schedule.log_snr[0], _count(argument))


def _uniform(schedule: Schedule, argument: str) -> np.ndarray:
    return _at_timesteps(schedule, np.linspace(len(schedule.t) - 1, 0, _count(argument)))


def _quadratic(schedule: Schedule, argument: str) -> np.ndarray:
    return _at_timesteps(schedule, np.linspace((len(schedule.t) - 1) ** 0.5, 0, _count(argument)) ** 2)


def _timesteps(schedule: Schedule, argument: str) -> np.ndarray:
    timesteps = _numbers(argument)
    if timesteps.min() < 0 or timesteps.max() > len(schedule.t) - 1:
        raise ValueError(f'timesteps are from 0 to {len(schedule.t) - 1}')
    return _at_timesteps(schedule, timesteps)


def _sigmas(schedule: Schedule, argument: str) -> np.ndarray:
    sigmas, (low, high) = _numbers(argument), np.exp(-schedule.log_snr[[0, -1]] / 2)
    if sigmas.min() < low * (1 - 1e-3) or sigmas.max() > high * (1 + 1e-3):
        raise ValueError(f'the sigmas of this process are from {low:.4g} to {high:.4g}')
    return -2 * np.log(sigmas)


def _at_timesteps(schedule: Schedule, timesteps: np.ndarray) -> np.ndarray:
    return np.interp(timesteps, np.arange(len(schedule.t)), schedule.log_snr)


def _count(argument: str) -> int:
    if not argument.strip().isdecimal() or int(argument) < 1:
        raise ValueError(f'{argument!r} must be the number of levels, at least 1')
    return int(argument)


def _numbers(argument: str) -> np.ndarray:
    try:
        numbers = np.array([float(number) for number in argument.split(',')])
    except ValueError:
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise ValueError(f'{argument!r} must be numbers separated by commas')
    return numbers


GRIDS: dict[str, Callable[[Schedule, str], np.ndarray]] = {
    'karras': _karras,
    'log_snr': _log_snr,
    'uniform': _uniform,
    'quadratic': _quadratic,
    't': _timesteps,
    'sigma': _sigmas,
}
