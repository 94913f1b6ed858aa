"""A recorded run of a sampler: its samplers, levels, states and noise, in our layout."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.diffusion.denoiser import continuous_level
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import Sampler
from tests.diffusion.mixture import Mixture, vp_levels
from tests.parity.case import Case


class Run(NamedTuple):
    """What a run starts from, and the states that it goes through.

    Attributes:
      samplers: of each of N steps; one of another kind than the one before it starts from x alone.
      x: [N + 1, B, H, W, C], before every step and at the end, in the space of x_t; NaN where not recorded.
      noise: [N, draws, B, H, W, C], of each step.
      corrected: the number of steps of UniPC whose states are recorded after their correction.
      percentile: of dynamic thresholding, if any.
      has_float32_constants: the implementation did not compute in float64 throughout.
    """

    samplers: list[Sampler]
    levels: Level
    x: np.ndarray
    noise: np.ndarray
    tolerance: float
    corrected: int = 0
    percentile: float | None = None
    level_at: Callable[[jax.Array], Level] = continuous_level
    has_float32_constants: bool = False


def mixture_of(case: Case, mixture: str) -> Mixture:
    """One of the mixtures of a case; its means have our layout."""
    prefix = {'main': 'model', 'wide': 'model_wide'}[mixture]
    stored = f'{prefix}/weights' if f'{prefix}/weights' in case.arrays else 'model/weights'
    means, stds = nhwc(case.arrays[f'{prefix}/means']), case.arrays[f'{prefix}/stds']
    return Mixture(case.arrays[stored], means, stds)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def in_x_t(x: np.ndarray, levels: Level) -> np.ndarray:
    """States x_0 + σ·eps as states x_t of our layout."""
    return levels.alpha.reshape(-1, 1, 1, 1, 1) * nhwc(x)


def noise_of(case: Case, name: str, steps: int, scale: float = 1.0) -> np.ndarray:
    """One draw for each step, [N, 1, …]; 0 after the last that is recorded."""
    shape = nhwc(case.arrays['x_T']).shape
    noise = np.zeros((steps, 1, *shape))
    key = f'{name}/noise' if f'{name}/noise' in case.arrays else 'noise'
    if key in case.arrays:
        drawn = nhwc(case.arrays[key])[:steps]
        noise[: len(drawn), 0] = drawn
    return scale * noise


def at_sigmas(
    case: Case, name: str, samplers: Callable[[int], list[Sampler]], tolerance: float, **fields: Any
) -> Run:
    """A run in the space x_0 + σ·eps; `samplers` gets the number of steps to the recorded σ."""
    levels, x = vp_levels(case.arrays[f'{name}/sigma']), case.arrays[f'{name}/x']
    chosen, scale = samplers(len(levels.t) - 1), fields.pop('s_noise', 1.0)
    if len(x) > len(levels.t):  # denoised at the end
        levels, chosen = to_zero(levels), [*chosen, chosen[-1]]
    run = Run(chosen, levels, in_x_t(x, levels), noise_of(case, name, len(chosen), scale), tolerance)
    return run._replace(**fields)


def to_zero(levels: Level) -> Level:
    return Level(*(np.append(v, clean) for v, clean in zip(levels, (0.0, 1.0, 0.0), strict=True)))
