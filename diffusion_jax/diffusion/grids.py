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
    restart:GRID/low,high,steps,times/…
                 the levels of another grid; from the one with σ next to `low`, noise is added up to `high`
                 and removed again in `steps` steps as of karras, `times` times      Restart (2306.14878)
    travel:250,10,2   the grid 250 in segments of 10 steps, each taken twice; see `travel`
    repaint:N,L,R  N timesteps at equal distances; from every L-th, L steps up and down again R − 1 times
                                                                    RePaint (2201.09865), appendix B
    '', 250, 90,60,60,20,20, ddim25      see `schedules.respaced_timesteps`

Every grid ends with the step to the clean image. All of it is float64 on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.process import Level, Transition
from diffusion_jax.diffusion.schedules import (
    KARRAS_MAX,
    KARRAS_MIN,
    KARRAS_RHO,
    Schedule,
    between,
    schedule_of,
    to_clean,
    with_clean,
)
from diffusion_jax.diffusion.travel import read_travel, travelled

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
    kind, _, argument = respacing.partition(':')
    if kind == 'travel':
        base, length, times = read_travel(argument)
        if config.prediction == 'previous_x':
            raise ValueError("a model that predicts 'previous_x' has no transitions to noisier levels")
        grid = between(travelled(with_clean(path(config, base, timesteps)), length, times))
    else:
        grid = to_clean(path(config, respacing, timesteps))
    return jax.tree.map(lambda a: a if a.dtype == bool else np.float32(a), grid)


def path(config: DiffusionConfig, respacing: str = '', timesteps: str = 'fractional') -> Level:
    """The levels of a grid, without the clean image, float64 [N]."""
    name, colon, argument = respacing.partition(':')
    if name == 'repaint':
        return _with_jumps(config, argument)
    if not colon:
        return jax.tree.map(lambda a: a[::-1], schedule_of(config, respacing).level)
    if name not in (*GRIDS, 'restart'):
        raise ValueError(
            f'unknown grid {name!r}; must be one of {", ".join((*GRIDS, "restart", "repaint", "travel"))}'
        )
    schedule = schedule_of(config)
    log_snr = GRIDS[name](schedule, argument) if name != 'restart' else _restart(config, argument)
    if config.prediction == 'previous_x':
        raise ValueError("a model that predicts 'previous_x' has no levels between timesteps; use '250'")
    level = (nearest_level if timesteps == 'nearest' else level_at)(schedule, log_snr)
    change = np.diff(level.sigma)
    if name != 'restart' and not ((change <= 0).all() if timesteps == 'nearest' else (change < 0).all()):
        raise ValueError('levels must become less noisy')
    return level


def _with_jumps(config: DiffusionConfig, argument: str) -> Level:
    numbers = argument.split(',')
    if len(numbers) != 3:
        raise ValueError(f"{argument!r}; must be steps, jump length and repetitions, such as '250,10,10'")
    if config.prediction == 'previous_x':
        raise ValueError("a model that predicts 'previous_x' has no such grid; use '250'")
    steps, length, repetitions = map(_count, numbers)
    positions = np.array(jumps(steps, length, repetitions))
    return jax.tree.map(lambda a: a[positions], schedule_of(config, str(steps)).level)


def jumps(steps: int, length: int, repetitions: int) -> list[int]:
    """The path of 'repaint:steps,length,repetitions' over levels steps − 1 … 0, one at a time.

    From each of the levels 0, length, 2·length, … below steps − length, it goes up `length` levels and down
    again, repetitions − 1 times.
    """
    left = dict.fromkeys(range(0, steps - length, length), repetitions - 1)
    path = [steps - 1]
    while path[-1] > 0 or left.get(path[-1], 0) > 0:
        at = path[-1]
        if left.get(at, 0) > 0:
            left[at] -= 1
            path += range(at + 1, at + length + 1)
        else:
            path.append(at - 1)
    return path


def _karras(schedule: Schedule, argument: str) -> np.ndarray:
    sigma = np.exp(-schedule.log_snr / 2)
    high, low = min(KARRAS_MAX, sigma[-1]), max(KARRAS_MIN, sigma[0])
    return -2 * KARRAS_RHO * np.log(_ramp(high, low, _count(argument)))


def karras(high: float, low: float, count: int) -> np.ndarray:
    """σ with equal steps of σ^(1/7), float64 [count]."""
    return _ramp(high, low, count) ** KARRAS_RHO


def _ramp(high: float, low: float, count: int) -> np.ndarray:
    return np.linspace(high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO), count)


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


def _restart(config: DiffusionConfig, argument: str) -> np.ndarray:
    base, *texts = argument.split('/')
    if base.startswith('restart') or not texts:
        raise ValueError("must be such as 'restart:karras:18/0.06,0.3,2,4'")
    levels, intervals = path(config, base, 'fractional'), [_numbers(text) for text in texts]
    sigmas = levels.sigma / levels.alpha
    for text, interval in zip(texts, intervals, strict=True):
        low, high, steps, times = interval if len(interval) == 4 else np.zeros(4)
        counts = steps >= 1 and times >= 1 and steps % 1 == 0 and times % 1 == 0
        if not (counts and sigmas[-1] * (1 - 1e-3) <= low < high <= sigmas[0] * (1 + 1e-3)):
            limits = f'{sigmas[-1]:.4g} ≤ low < high ≤ {sigmas[0]:.4g}'
            raise ValueError(f'{text!r}; must be low,high,steps,times with {limits} and at least one of each')
    return -2 * np.log(restarted(sigmas, [interval.tolist() for interval in intervals]))


def restarted(sigmas: np.ndarray, intervals: Sequence[Sequence[float]]) -> np.ndarray:
    """The σ of a grid with restarts; intervals: (low, high, steps, times), see above."""
    path: list[float] = []
    starts = [int(np.argmin(np.abs(sigmas - low))) for low, *_ in intervals]
    for k, sigma in enumerate(sigmas):
        path.append(sigma)
        for start, (_, high, steps, times) in zip(starts, intervals, strict=True):
            if start == k and sigma < high:
                path += [*karras(high, sigma, int(steps) + 1)[:-1], sigma] * int(times)
    return np.array(path)


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
