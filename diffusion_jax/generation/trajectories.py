"""Records of all steps of a sampling, and a grid of noise levels that is chosen by them for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.checks import one_of
from diffusion_jax.diffusion.process import Level, Prediction, Transition
from diffusion_jax.diffusion.trajectory_grids import METRICS, cheapest_path, cost_matrix, sigma_text
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import check_array, whole_number
from diffusion_jax.generation.options import check_respacing

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator


class Trajectory(NamedTuple):
    """Every step of a batch of images; N is the number of steps, and the noisiest is the first.

    Attributes:
        t: float32 [N], the timesteps, as the networks see them.
        x_t: float32 [N, B, H, W, C], the start of each step; x_t[0] is x_T.
        x_0: float32 [N, B, H, W, C], the estimate of the image at each step, before a guidance by gradients
            changes it.
    """

    t: jax.Array
    x_t: jax.Array
    x_0: jax.Array


def trajectory(state: Any, prediction: Prediction, transition: Transition) -> Trajectory:
    """The `record` of `generate` and `Generator.sample` that keeps a Trajectory."""
    return Trajectory(transition.level.t, state.x, prediction.x_0)


def choose_grid(
    model: Generator,
    levels: int,
    y: Any = None,
    *,
    teacher: str = 'karras:61',
    num_images: int = 32,
    metric: str = 'dev',
    coefficient: float = 1.15,
    **how: Any,
) -> str:
    """The grid with `levels` levels that fits this model best, as a text for `respacing`: GITS (2405.11326).

    A teacher samples images on a fine grid, with one evaluation for each of its levels. The chosen grid
    consists of some of these levels, including the first and the last. Two images are kept in memory for each
    level and image of the teacher.

    Args:
        teacher: the fine grid.
        num_images: the number of images of the teacher.
        metric: 'dev', 'l1' or 'l2'; see `diffusion.trajectory_grids.cost_matrix`.
        coefficient: the weight of later steps.
        y, how: see `Generator.request`; by default sampler='ipndm'.
    """
    one_of('metric', metric, METRICS)
    coefficient = float(check_array('coefficient', coefficient, (), np.float64))
    grid = check_respacing(model.diffusion, teacher, how.get('timesteps', 'fractional'))
    if not (np.diff(grid.level.sigma) < 0).all():
        raise UserError('teacher', f'got {teacher!r}', 'must have distinct levels, and no restarts')
    levels = whole_number('levels', levels, 2, len(grid.level.t) + 1)
    how = {'sampler': 'ipndm'} | how
    x, eps, level = model.sample(num_images, y, respacing=teacher, record=_teacher_states, **how).records
    sigmas = np.asarray(grid.level.edm_sigma, np.float64)
    scaled = x / np.reshape(level.alpha, (-1, 1, 1, 1, 1))
    return sigma_text(sigmas[cheapest_path(cost_matrix(scaled, eps, sigmas, metric), levels, coefficient)])


def _teacher_states(
    state: Any, prediction: Prediction, transition: Transition
) -> tuple[jax.Array, jax.Array, Level]:
    """The `record` of the teacher: x_t, the guided eps, and the level."""
    eps, level = prediction.eps, transition.level
    if prediction.gradient is not None:
        eps = eps - level.sigma * prediction.gradient
    return state.x, eps, level
