"""Grids: the noise levels that a sampler visits, by name. They need not be those of trained timesteps.

Between timesteps the network is evaluated at a fractional t, interpolated in log-SNR ('fractional'), or each
level is replaced by the nearest trained one, as in EDM ('nearest'). Several levels may then be equal.

    karras:N     N levels, σ = sigma/alpha with equal steps of σ^(1/7), from 80 down to 0.002, or to the
                 process's own limits where these are narrower                   EDM (2206.00364), eq. 5
    log_snr:N    N levels with equal steps of log-SNR, over the whole process    DPM-Solver (2206.00927)
    uniform:N    N levels with equal steps of t
    quadratic:N  N levels with equal steps of √t                                 DDIM (2010.02502), appendix D
    t:900,500,0  these timesteps, as the process counts them
    sigma:80,1   these σ
    restart:GRID/…, repaint:GRID/…, travel:GRID/…   grids that also go up; see `jumps`
    '', 250, 90,60,60,20,20, ddim25      see `schedules.respaced_timesteps`

Every grid ends with the step to the clean image. All of it is float64 on the host.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.jumps import JUMPS
from diffusion_jax.diffusion.process import Level, Transition
from diffusion_jax.diffusion.schedules import (
    KARRAS_MAX,
    KARRAS_MIN,
    Schedule,
    between,
    karras,
    schedule_of,
    with_clean,
)

TIMESTEPS = ('fractional', 'nearest')


def level_at(schedule: Schedule, log_snr: np.ndarray | jax.Array) -> Level:
    """The level of a log-SNR, NumPy or JAX as it is, with a fractional t, clamped to the schedule's ends."""
    xp = jnp if isinstance(log_snr, jax.Array) else np
    t = xp.interp(log_snr, schedule.log_snr[::-1], schedule.t[::-1])
    return Level(t, xp.sqrt(1 / (1 + xp.exp(-log_snr))), xp.sqrt(1 / (1 + xp.exp(log_snr))))


def nearest_level(schedule: Schedule, log_snr: np.ndarray | jax.Array) -> Level:
    """The trained level with the nearest edm_sigma."""
    xp = jnp if isinstance(log_snr, jax.Array) else np
    distance = xp.abs(xp.exp(-log_snr / 2)[..., None] - xp.exp(-schedule.log_snr / 2))
    index = xp.argmin(distance, axis=-1)
    return Level(*(xp.asarray(a)[index] for a in schedule.level))


def inversion(grid: Transition) -> Transition:
    """The reversed grid, for deterministic samplers; at its least noisy level x_t is the clean image."""
    back = Level(*(v[::-1] for v in grid.level))
    here, there = Level(*(v[:-1] for v in back)), Level(*(v[1:] for v in back))
    nothing = np.full(len(here.t), -np.inf)
    return Transition(here, there, log_beta=nothing, num_steps=grid.num_steps[1:] - 1)


def make_grid(config: DiffusionConfig, respacing: str = '', timesteps: str = 'fractional') -> Transition:
    """The grid of a name, float32 [N] on the host, the noisiest level first; ValueError if there is none.

    timesteps: 'fractional' or 'nearest'.
    """
    grid = between(path(config, respacing, timesteps))
    return jax.tree.map(lambda a: a if a.dtype == bool else np.float32(a), grid)


def path(config: DiffusionConfig, respacing: str = '', timesteps: str = 'fractional') -> Level:
    """The levels of a grid in their order, the clean image last, float64 [N + 1]."""
    kind, _, argument = respacing.partition(':')
    if kind not in JUMPS:
        return with_clean(_levels(config, respacing, timesteps))
    base, *texts = argument.split('/')
    if not texts or base.partition(':')[0] in JUMPS:
        raise ValueError("must be such as 'restart:karras:18/0.06,0.3,2,4' or 'repaint:250/10,10'")
    if config.prediction == 'previous_x':
        raise ValueError("a model that predicts 'previous_x' has no transitions to noisier levels; use '250'")
    at = functools.partial(_at_log_snr(timesteps), schedule_of(config))
    levels = _levels(config, base, timesteps)
    return JUMPS[kind](
        levels, [_numbers(text).tolist() for text in texts], lambda sigma: at(-2 * np.log(sigma))
    )


def _levels(config: DiffusionConfig, respacing: str, timesteps: str) -> Level:
    name, colon, argument = respacing.partition(':')
    if not colon:
        return jax.tree.map(lambda a: a[::-1], schedule_of(config, respacing).level)
    if name not in GRIDS:
        raise ValueError(f'unknown grid {name!r}; must be one of {", ".join((*GRIDS, *JUMPS))}')
    schedule = schedule_of(config)
    log_snr = GRIDS[name](schedule, argument)
    if config.prediction == 'previous_x':
        raise ValueError("a model that predicts 'previous_x' has no levels between timesteps; use '250'")
    level = _at_log_snr(timesteps)(schedule, log_snr)
    change = np.diff(level.sigma)
    if not ((change <= 0).all() if timesteps == 'nearest' else (change < 0).all()):
        raise ValueError('levels must become less noisy')
    return level


def _at_log_snr(timesteps: str) -> Callable[[Schedule, np.ndarray], Level]:
    return nearest_level if timesteps == 'nearest' else level_at


def _karras(schedule: Schedule, argument: str) -> np.ndarray:
    sigma = np.exp(-schedule.log_snr / 2)
    high, low = min(KARRAS_MAX, sigma[-1]), max(KARRAS_MIN, sigma[0])
    return -2 * np.log(karras(high, low, _count(argument)))


def _log_snr(schedule: Schedule, argument: str) -> np.ndarray:
    return np.linspace(schedule.log_snr[-1], schedule.log_snr[0], _count(argument))


def _powers(power: float, schedule: Schedule, argument: str) -> np.ndarray:
    """Equal steps of t^power."""
    last = (len(schedule.t) - 1) ** power
    return _at_timesteps(schedule, np.linspace(last, 0, _count(argument)) ** (1 / power))


def _timesteps(schedule: Schedule, argument: str) -> np.ndarray:
    timesteps = _numbers(argument)
    if timesteps.min() < 0 or timesteps.max() > len(schedule.t) - 1:
        raise ValueError(f'timesteps must be between 0 and {len(schedule.t) - 1}')
    return _at_timesteps(schedule, timesteps)


def _sigmas(schedule: Schedule, argument: str) -> np.ndarray:
    sigmas, (low, high) = _numbers(argument), np.exp(-schedule.log_snr[[0, -1]] / 2)
    if sigmas.min() < low * (1 - 1e-3) or sigmas.max() > high * (1 + 1e-3):
        raise ValueError(f'sigmas of this process must be between {low:.4g} and {high:.4g}')
    return -2 * np.log(sigmas)


def _at_timesteps(schedule: Schedule, timesteps: np.ndarray) -> np.ndarray:
    return np.interp(timesteps, np.arange(len(schedule.t)), schedule.log_snr)


def _count(argument: str) -> int:
    if not argument.strip().isdecimal() or int(argument) < 1:
        raise ValueError(f'{argument!r}; must be the number of levels, at least 1')
    return int(argument)


def _numbers(argument: str) -> np.ndarray:
    try:
        numbers = np.array([float(number) for number in argument.split(',')])
    except ValueError:
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise ValueError(f'{argument!r}; must be numbers separated by commas')
    return numbers


GRIDS: dict[str, Callable[[Schedule, str], np.ndarray]] = {
    'karras': _karras,
    'log_snr': _log_snr,
    'uniform': functools.partial(_powers, 1),
    'quadratic': functools.partial(_powers, 0.5),
    't': _timesteps,
    'sigma': _sigmas,
}
