"""Runs of our samplers from the start and the noise of a recorded run, in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.guidance import Guidance, Models
from diffusion_jax.diffusion.inverse import Measurement
from diffusion_jax.diffusion.jumps import repainted
from diffusion_jax.diffusion.process import Transition
from diffusion_jax.diffusion.samplers import Sampler, sample
from diffusion_jax.diffusion.schedules import row
from tests.parity.case import Case
from tests.parity.compare import compare
from tests.parity.posterior.model import Model, grid_at

MODEL = {'m', 'C', 'A', 'y', 's_y'}
# Facts of a record that need no check here.
ABOUT = {'description', 'arrays', 'layout', 'steps', 'replayed_from_this_file_max_difference'}
ABOUT |= {'check_official_20000_samples_against_closed_form'}
ATOL = 1e-4  # of float32 runs


def images(x: np.ndarray) -> jax.Array:
    """[…, B, d] → [..., B, 1, 1, d], float64."""
    return jnp.asarray(x, float)[..., None, None, :]


def run(
    sampler: Sampler,
    model: Model,
    grid: Transition,
    x_T: np.ndarray,
    noise_at: Callable[[Any, Any], jax.Array],
    guidance: tuple[Guidance, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """x before every step and at the end [N + 1, B, d], and the first prediction of x_0 in each step."""
    denoise = model.denoiser()
    for each in guidance:
        denoise = each.wrap(denoise, Models())

    def record(state, prediction, transition):
        return state.x, prediction.x_0

    @jax.jit
    def steps(x_T):
        state, (x, x_0) = sample(sampler, denoise, grid, noise_at, x_T, record=record)
        return jnp.concatenate([x, state.x[None]]), x_0

    x, x_0 = steps(images(x_T))
    return np.asarray(x)[..., 0, 0, :], np.asarray(x_0)[..., 0, 0, :]


def same(name: str, ours, recorded, case: Case) -> None:
    scale = max(1.0, float(np.abs(recorded).max()))
    compare(
        'recorded posterior sampling', ours / scale, recorded / scale, atol=ATOL, detail=f'{case.name} {name}'
    )


def one_draw(noise: np.ndarray, stride: int = 1, offset: int = 0) -> Callable[[Any, Any], jax.Array]:
    """noise[stride·k + offset] is the draw of step k = 0, 1, …"""
    recorded = images(noise)
    return lambda position, i: recorded[stride * (position - 1) + offset]


def knows(case: Case, options: set[str], arrays: set[str]) -> None:
    unknown = (case.meta.keys() - ABOUT - options) | (case.arrays.keys() - MODEL - arrays)
    assert not unknown, f'{case.name}: unknown {unknown}'


def with_noise(model: Model, noise: float) -> Measurement:
    return Measurement(model.measurement.operator, model.y[None], noise)


def travel(sampler: Sampler, model: Model, case: Case):
    """Time travel as released: it renoises the last estimate of x_0, before its projection.

    Returns what the network saw, the result, and the last estimate.
    """
    arrays, meta = case.arrays, case.meta
    timesteps = np.unique(arrays['t'])
    path = repainted(len(timesteps), meta['travel_length'], meta['travel_repeat'])
    grid = jax.tree.map(jnp.asarray, grid_at(timesteps[path])._replace(renoise=None))
    denoise, noise = model.denoiser(), images(arrays['noise'])

    @jax.jit
    def down(x, transition, noise):
        state, _ = sampler.step(denoise, sampler.restart(sampler.init(x), x), (), transition, lambda i: noise)
        return state.x, model.predict(x, transition.level).x_0

    x, x_0, seen = images(arrays['x_T']), None, []
    for k in range(len(path)):
        transition = row(grid, k)
        if k + 1 < len(path) and path[k + 1] > path[k]:
            x = transition.next.alpha * x_0 + transition.next.sigma * noise[k]
            continue
        seen.append(np.asarray(x)[:, 0, 0])
        x, x_0 = down(x, transition, noise[k])
    return np.stack(seen), np.asarray(x)[:, 0, 0], np.asarray(x_0)[:, 0, 0]
