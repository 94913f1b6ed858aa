"""Noise schedules: how much noise each timestep of the discrete process carries.

The forward process is q(x_t|x_{t-1}) = N(√(1−β_t)·x_{t-1}, β_t), hence with ᾱ_t = ∏_{s≤t} (1−β_s)

    q(x_t|x_0) = N(√ᾱ_t·x_0, 1−ᾱ_t)                                        DDPM (2006.11239), eq. 4
    q(x_{t-1}|x_t, x_0) = N(μ̃_t, β̃_t)                                      DDPM, eq. 6
    μ̃_t = √ᾱ_{t-1}·β_t/(1−ᾱ_t) · x_0 + √(1−β_t)·(1−ᾱ_{t-1})/(1−ᾱ_t) · x_t
    β̃_t = (1−ᾱ_{t-1})/(1−ᾱ_t) · β_t                                        DDPM, eq. 7

Timesteps count from 0, and ᾱ before timestep 0 is 1. Sampling with fewer steps keeps some timesteps of the
trained process and gives them the betas that leave their ᾱ as they were: Improved DDPM (2102.09672), eq. 19.

All of it is float64 on the host; `transitions` casts to float32 what the device needs. Settings that are
impossible raise ValueError.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.process import Level, Transition

SCHEDULES = ('linear', 'cosine', 'edm')
KARRAS_MIN, KARRAS_MAX, KARRAS_RHO = 0.002, 80.0, 7
NO_VARIANCE = 1e-30  # between equal levels, where a logarithm must be finite


@dataclass(frozen=True, eq=False)
class Schedule:
    """The table of one discrete process; every array is [T], the least noisy timestep first.

    Attributes:
      betas, alpha_bar: float64, β_t and ᾱ_t of this process, respaced or not.
      timesteps: int64, in the original process.
      t: float64, what the network sees.
    """

    betas: np.ndarray
    alpha_bar: np.ndarray
    timesteps: np.ndarray
    t: np.ndarray

    @property
    def level(self) -> Level:
        return Level(self.t, np.sqrt(self.alpha_bar), np.sqrt(1 - self.alpha_bar))

    @property
    def log_snr(self) -> np.ndarray:
        """float64, log(ᾱ_t/(1−ᾱ_t)), falling."""
        return np.log(self.alpha_bar) - np.log1p(-self.alpha_bar)


def betas(name: str, num_timesteps: int) -> np.ndarray:
    """β_t of a named schedule, float64 [T].

    'linear': from 1e-4 to 0.02, both times 1000/T (DDPM, section 4). It reaches 1 for 2 ≤ T ≤ 20.
    'cosine': ᾱ(u) = cos²((u + 0.008)/1.008 · π/2) at u = t/T, β at most 0.999 (Improved DDPM, eq. 17).
    'edm': σ = sigma/alpha with equal steps of σ^(1/7), from 0.002 to 80 (EDM, 2206.00364, eq. 5).
    """
    if num_timesteps < 1:
        raise ValueError(f'num_timesteps={num_timesteps}; must be at least 1')
    if name == 'linear':
        scale = 1000 / num_timesteps
        return np.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=np.float64)
    if name == 'cosine':
        angles = (np.arange(num_timesteps + 1) / num_timesteps + 0.008) / 1.008 * math.pi / 2
        alpha_bar = np.cos(angles) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    if name == 'edm':
        low, high = KARRAS_MIN ** (1 / KARRAS_RHO), KARRAS_MAX ** (1 / KARRAS_RHO)
        alpha_bar = 1 / (1 + np.linspace(low, high, num_timesteps) ** (2 * KARRAS_RHO))
        return 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    raise ValueError(f'unknown noise schedule {name!r}; must be one of {", ".join(SCHEDULES)}')


def respaced_timesteps(num_timesteps: int, spec: str) -> list[int]:
    """The timesteps that a respacing keeps, sorted.

    spec: '' keeps all. 'ddimN' keeps every k-th, starting at 0, with the smallest integer stride k that gives
    exactly N (DDIM). 'a,b,c' divides the timesteps into sections of equal length, of which the first ones are
    longer by one if necessary. It spreads a timesteps over the first section, including its ends, b over the
    second, and so on; '250' is one section.
    """
    if not spec:
        return list(range(num_timesteps))
    if spec.startswith('ddim'):
        return _strided(num_timesteps, *_counts(spec, spec[len('ddim') :]))
    counts = _counts(spec, *spec.split(','))
    length, longer = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = length + (section < longer)
        if count > size:
            raise ValueError(f'{count} timesteps of a section of {size}; must be at most {size}')
        kept += [start + offset for offset in _spread(size, count)]
        start += size
    if not kept:
        raise ValueError('no timestep is kept; must be at least 1')
    return kept


def _counts(spec: str, *numbers: str) -> list[int]:
    if not all(number.strip().isdecimal() for number in numbers):
        raise ValueError("unknown grid; must be such as '', '250', '10,15,20', 'ddim25', 'karras:18'")
    return [int(number) for number in numbers]


def _strided(num_timesteps: int, count: int) -> list[int]:
    for stride in range(1, num_timesteps):
        kept = range(0, num_timesteps, stride)
        if len(kept) == count:
            return list(kept)
    raise ValueError(
        f'no integer stride keeps exactly {count} of {num_timesteps} timesteps; {count} without ddim has '
        'uneven strides'
    )


def _spread(size: int, count: int) -> list[int]:
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    # A product would not drift like this sum; published results depend on how its halves are rounded.
    return [round(position) for position in np.cumsum([0.0, *count * [stride]])[:count]]


def make_schedule(
    name: str, num_timesteps: int, respacing: str = '', rescale_timesteps: bool = False
) -> Schedule:
    """The (respaced) schedule of a model.

    rescale_timesteps: the network sees timesteps scaled to 0…1000, whatever their number. With 'edm' it
      always sees 250·log σ: EDM's c_noise, times 1000 as in the consistency models' code.

    Raises:
      ValueError: no such schedule or respacing; or ᾱ reaches 0, or a constant is not finite in float32.
    """
    beta, timesteps = betas(name, num_timesteps), np.arange(num_timesteps)
    t = timesteps * (1000 / num_timesteps if rescale_timesteps else 1.0)
    alpha_bar = np.cumprod(1 - beta)
    if name == 'edm':
        t = 125 * (np.log1p(-alpha_bar) - np.log(alpha_bar))
    schedule = respace(Schedule(beta, alpha_bar, timesteps, t), respacing)
    with np.errstate(all='ignore'):
        constants = [np.float32(values) for values in jax.tree.leaves(float64_transitions(schedule))]
    if not (schedule.alpha_bar > 0).all() or not all(np.isfinite(values).all() for values in constants):
        spacing = f', respaced to {respacing!r},' if respacing else ''
        raise ValueError(
            f'the {name} schedule of {num_timesteps} timesteps{spacing} destroys the image before its last '
            'timestep; use more timesteps'
        )
    return schedule


def schedule_of(config: DiffusionConfig, respacing: str = '') -> Schedule:
    """The (respaced) schedule of a config."""
    return make_schedule(config.schedule, config.num_timesteps, respacing, config.rescale_timesteps)


def respace(schedule: Schedule, spec: str) -> Schedule:
    """The shorter process over the timesteps that `respaced_timesteps` keeps (Improved DDPM, eq. 19)."""
    kept = np.asarray(respaced_timesteps(len(schedule.betas), spec))
    alpha_bar = schedule.alpha_bar[kept]
    beta = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return Schedule(beta, alpha_bar, schedule.timesteps[kept], schedule.t[kept])


def between(levels: Level) -> Transition:
    """The transitions from each of N + 1 levels to the next, float64 [N].

    The last level may be the clean image, Level(0, 1, 0). Transitions to noisier levels have `renoise`.
    """
    here, there = Level(*(v[:-1] for v in levels)), Level(*(v[1:] for v in levels))
    renoise = there.sigma > here.sigma
    low, high = np.minimum(here.alpha, there.alpha), np.maximum(here.alpha, there.alpha)
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
        num_steps=np.full(len(beta), np.sum(~renoise), np.float64),
        renoise=renoise if renoise.any() else None,
    )


def to_clean(levels: Level) -> Transition:
    """The transitions from each of some levels [N] to the next, and from the last to the clean image."""
    return between(with_clean(levels))


def karras(high: float, low: float, count: int) -> np.ndarray:
    """σ with equal steps of σ^(1/7), float64 [count] (EDM, 2206.00364, eq. 5)."""
    return np.linspace(high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO), count) ** KARRAS_RHO


def with_clean(levels: Level) -> Level:
    """Levels [N], then the clean image."""
    return Level(*(np.append(a, clean) for a, clean in zip(levels, (0.0, 1.0, 0.0), strict=True)))


def float64_transitions(schedule: Schedule) -> Transition:
    """All transitions of a process, float64 [T]: row t leads from level t to level t−1."""
    grid = to_clean(jax.tree.map(lambda a: a[::-1], schedule.level))
    return jax.tree.map(lambda a: a[::-1], grid)


def transitions(schedule: Schedule) -> Transition:
    """All transitions of a process as float32 [T] on the device."""
    return jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), float64_transitions(schedule))


def row(transitions: Transition, index: jax.Array | int) -> Transition:
    """Rows of a table of transitions; index: [] or int [B], not in timesteps of the original process."""
    return jax.tree.map(lambda values: values[index], transitions)
