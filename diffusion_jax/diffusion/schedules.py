"""Noise schedules: how much noise each timestep of the discrete process carries.

The forward process is q(x_t|x_{t-1}) = N(√(1−β_t)·x_{t-1}, β_t), hence with ᾱ_t = ∏_{s≤t} (1−β_s)

    q(x_t|x_0) = N(√ᾱ_t·x_0, 1−ᾱ_t)                                        DDPM (2006.11239), eq. 4
    q(x_{t-1}|x_t, x_0) = N(μ̃_t, β̃_t)                                      DDPM, eq. 6
    μ̃_t = √ᾱ_{t-1}·β_t/(1−ᾱ_t) · x_0 + √(1−β_t)·(1−ᾱ_{t-1})/(1−ᾱ_t) · x_t
    β̃_t = (1−ᾱ_{t-1})/(1−ᾱ_t) · β_t                                        DDPM, eq. 7

Timesteps count from 0, and ᾱ before timestep 0 is 1. Sampling with fewer steps keeps some timesteps of the
trained process and gives them the betas that leave their ᾱ as they were: Improved DDPM (2102.09672), eq. 19.

All of it is float64 on the host, once; `transitions` casts to float32 what the device needs. These functions
check the settings that they are given and raise ValueError.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.process import Level, Transition


@dataclass(frozen=True, eq=False)
class Schedule:
    """The table of one discrete process; every array is [T], the least noisy timestep first.

    Attributes:
      betas: float64, β_t of this process, respaced or not.
      alpha_bar: float64, ᾱ_t.
      timesteps: int64, the timesteps of the original process that these are.
      t: float64, what the network sees at them.
    """

    betas: np.ndarray
    alpha_bar: np.ndarray
    timesteps: np.ndarray
    t: np.ndarray

    @property
    def log_snr(self) -> np.ndarray:
        """float64, log(ᾱ_t/(1−ᾱ_t)), falling."""
        return np.log(self.alpha_bar) - np.log1p(-self.alpha_bar)


def betas(name: str, num_timesteps: int) -> np.ndarray:
    """β_t of a named schedule, float64 [T].

    'linear': from 1e-4 to 0.02, both times 1000/T (DDPM, section 4). It reaches 1 for 2 ≤ T ≤ 20, which
    `make_schedule` refuses.
    'cosine': ᾱ(u) = cos²((u + 0.008)/1.008 · π/2) at u = t/T, β at most 0.999 (Improved DDPM, eq. 17).
    """
    if num_timesteps < 1:
        raise ValueError(f'num_timesteps is {num_timesteps}: a process needs at least one timestep')
    if name == 'linear':
        scale = 1000 / num_timesteps
        return np.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=np.float64)
    if name == 'cosine':
        angles = (np.arange(num_timesteps + 1) / num_timesteps + 0.008) / 1.008 * math.pi / 2
        alpha_bar = np.cos(angles) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    raise ValueError(f"no noise schedule is called {name!r}: choose 'linear' or 'cosine'")


def respaced_timesteps(num_timesteps: int, spec: str) -> list[int]:
    """The timesteps that a respacing keeps, sorted.

    spec: '' keeps all. 'ddimN' keeps every k-th from 0 on, with the smallest whole stride k that gives
    exactly N (the striding of the DDIM paper). 'a,b,c' cuts the timesteps into sections of equal length, the
    first ones longer by one where it does not divide, and spreads a timesteps over the first section, from
    its first to its last, b over the second, and so on; '250' is one section.
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
            raise ValueError(f'respacing {spec!r} wants {count} timesteps of a section that has {size}')
        kept += [start + offset for offset in _spread(size, count)]
        start += size
    if not kept:
        raise ValueError(f'respacing {spec!r} keeps no timestep')
    return kept


def _counts(spec: str, *numbers: str) -> list[int]:
    if not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"{spec!r} is none of '', '250', '10,15,20', 'ddim25', 'karras:18'")
    return [int(number) for number in numbers]


def _strided(num_timesteps: int, count: int) -> list[int]:
    for stride in range(1, num_timesteps):
        kept = range(0, num_timesteps, stride)
        if len(kept) == count:
            return list(kept)
    possible = 0 < count <= num_timesteps
    remedy = (
        f'give {count} for uneven strides' if possible else f'give at least 1 and at most {num_timesteps}'
    )
    raise ValueError(f'no whole stride keeps exactly {count} of {num_timesteps} timesteps; {remedy}')


def _spread(size: int, count: int) -> list[int]:
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    offsets = []
    position = 0.0
    for _ in range(count):
        offsets.append(round(position))
        # A product would not drift as this sum does, and published results rest on where it rounds a half.
        position += stride
    return offsets


def make_schedule(
    name: str, num_timesteps: int, respacing: str = '', rescale_timesteps: bool = False
) -> Schedule:
    """The (respaced) schedule of a model.

    rescale_timesteps: the model was trained to see timesteps scaled to 0…1000, whatever their number.

    Raises:
      ValueError: no such schedule or respacing; or ᾱ reaches 0, or a constant is not finite. The message
        gives the smallest larger number of timesteps that works.
    """
    schedule = respace(_whole_process(name, num_timesteps, rescale_timesteps), respacing)
    if not is_usable(schedule):
        spacing = f', respaced to {respacing!r},' if respacing else ''
        works = _next_usable(name, num_timesteps, respacing)
        least = 'fewer' if works is None else f'at least {works}'
        raise ValueError(
            f'the {name} schedule{spacing} needs {least} timesteps, not {num_timesteps}: its ᾱ must stay '
            'above 0 and its constants finite'
        )
    return schedule


def is_usable(schedule: Schedule) -> bool:
    """Whether ᾱ stays above 0 and every constant of the transitions is finite in float32."""
    if not (schedule.alpha_bar > 0).all():
        return False
    with np.errstate(all='ignore'):
        constants = [np.float32(values) for values in jax.tree.leaves(float64_transitions(schedule))]
    return all(np.isfinite(values).all() for values in constants)


def _next_usable(name: str, num_timesteps: int, respacing: str) -> int | None:
    """The smallest larger number of timesteps, up to 1000, that works; None where none does."""
    for number in range(num_timesteps + 1, 1001):
        with contextlib.suppress(ValueError):  # this number does not have the respacing
            if is_usable(respace(_whole_process(name, number), respacing)):
                return number
    return None


def _whole_process(name: str, num_timesteps: int, rescale_timesteps: bool = False) -> Schedule:
    """The schedule before it is respaced."""
    values = betas(name, num_timesteps)
    timesteps = np.arange(num_timesteps)
    t = timesteps * (1000 / num_timesteps if rescale_timesteps else 1.0)
    return Schedule(values, np.cumprod(1 - values), timesteps, t)


def schedule_of(config: DiffusionConfig, respacing: str = '') -> Schedule:
    """The (respaced) schedule of a config."""
    return make_schedule(config.schedule, config.num_timesteps, respacing, config.rescale_timesteps)


def respace(schedule: Schedule, spec: str) -> Schedule:
    """The shorter process over the timesteps that `respaced_timesteps` keeps (Improved DDPM, eq. 19)."""
    kept = np.asarray(respaced_timesteps(len(schedule.betas), spec))
    alpha_bar = schedule.alpha_bar[kept]
    beta = 1 - alpha_bar / _before(alpha_bar, 1.0)
    return Schedule(beta, alpha_bar, schedule.timesteps[kept], schedule.t[kept])


def float64_transitions(schedule: Schedule) -> Transition:
    """All transitions of a process as numpy float64 [T]: row t leads from level t to level t−1.

    β̃ is 0 at the first timestep, where no logarithm exists: its log-variances are those of the second one, or
    β itself in a process of one timestep.
    """
    beta, alpha_bar = schedule.betas, schedule.alpha_bar
    before = _before(alpha_bar, 1.0)
    posterior_variance = beta * (1 - before) / (1 - alpha_bar)
    first = posterior_variance[1] if len(beta) > 1 else beta[0]
    level = Level(t=schedule.t, alpha=np.sqrt(alpha_bar), sigma=np.sqrt(1 - alpha_bar))
    return Transition(
        level=level,
        next=Level(t=_before(level.t, 0.0), alpha=_before(level.alpha, 1.0), sigma=_before(level.sigma, 0.0)),
        mean_x0=np.sqrt(before) * beta / (1 - alpha_bar),
        mean_xt=np.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar),
        log_beta=np.log(beta),
        log_posterior=np.log(np.append(first, posterior_variance[1:])),
        log_large=np.log(np.append(first, beta[1:])),
        num_steps=np.full(len(beta), len(beta), np.float64),
    )


def transitions(schedule: Schedule) -> Transition:
    """All transitions of a process as float32 [T] on the device."""
    return jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), float64_transitions(schedule))


def row(transitions: Transition, t: jax.Array | int) -> Transition:
    """Row t, [] or int [B], of a table of transitions; t counts the rows, not the original timesteps."""
    return jax.tree.map(lambda values: values[t], transitions)


def _before(values: np.ndarray, first: float) -> np.ndarray:
    return np.append(first, values[:-1])
