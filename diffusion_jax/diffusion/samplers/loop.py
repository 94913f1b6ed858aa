"""The loop that all samplers share, and its noise: image i depends on its own key and on nothing else.

The batch, the number of devices and the order of the images do not change the noise of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, score_shift
from diffusion_jax.diffusion.process import Gaussian, Level, Prediction, Transition, align
from diffusion_jax.diffusion.samplers.sampler import Noise, Sampler
from diffusion_jax.diffusion.schedules import row

# (position, i) → the i-th draw of the step at this position, 1 … N.
NoiseAt = Callable[[Array, int], Array]
# (state before a step, the first prediction in it before its gradient is applied, transition) → any pytree.
Record = Callable[[Any, Prediction, Transition], Any]
# The state of the sampler and the memory of the denoiser.
Carry = tuple[Any, Any]


def per_sample_noise(keys: Array, position: Array | int, shape: tuple[int, ...]) -> Array:
    """N(0, 1) of [B, *shape], float32; that of image i depends only on keys[i] and the position.

    keys: typed, [B].
    """

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, position), shape, jnp.float32)

    return jax.vmap(draw)(keys)


def noise_of(keys: Array, shape: tuple[int, ...]) -> NoiseAt:
    """The noise of a sampler's steps from one typed key for each image."""

    def noise_at(position: Array, i: int) -> Array:
        if i == 0:
            return per_sample_noise(keys, position, shape)
        return per_sample_noise(jax.vmap(lambda key: jax.random.fold_in(key, position))(keys), i, shape)

    return noise_at


def initial_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """x_T for images of `shape` [H, W, C]: position 0 of the per-sample noise; the steps take 1, 2, …, N."""
    return per_sample_noise(keys, 0, shape)


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    grid: Transition,
    noise_at: NoiseAt,
    x_T: Array,
    *,
    record: Record | None = None,
    remat: bool = False,
) -> tuple[Any, Any]:
    """Runs the sampler from x_T, at the first level of a grid, through all its transitions.

    Where `grid.renoise` is True, noise is added up to the next level, and the sampler starts again from there
    (RePaint, 2201.09865; Restart, 2306.14878).

    Args:
      grid: arrays [N], the first transition first.
      noise_at: see `noise_of`.
      record: what to keep of every step; where only noise is added, the prediction is 0.
      remat: recomputes each step in a backward pass, which then keeps one state a step.

    Returns:
      The last state, whose x is x_0; and the records of all steps, stacked, [N, …], or None.
    """
    step = _stepper(sampler, denoise, grid, noise_at, record)
    positions = jnp.arange(1, len(grid.level.t) + 1)
    (state, _), records = jax.lax.scan(
        jax.checkpoint(step) if remat else step, start(sampler, denoise, x_T), positions
    )
    return state, records


def start(sampler: Sampler, denoise: Denoiser, x_T: Array) -> Carry:
    """The state and the memory that `advance` starts from."""
    return sampler.init(x_T), denoise.init(x_T)


def advance(
    sampler: Sampler,
    denoise: Denoiser,
    grid: Transition,
    noise_at: NoiseAt,
    carry: Carry,
    done: Array,
    until: Array,
) -> Carry:
    """A part of `sample`: the steps done + 1, …, until; both are int32 [] and traced."""
    step = _stepper(sampler, denoise, grid, noise_at, None)
    return jax.lax.fori_loop(done + 1, until + 1, lambda position, carry: step(carry, position)[0], carry)


def evaluations(sampler: Sampler, grid: Transition, done: int = 0) -> int:
    """The number of evaluations of the denoiser for each image after `done` steps; the grid is NumPy."""
    asked = np.where(np.asarray(grid.next.sigma) == 0, 1, sampler.evaluations)
    if grid.renoise is not None:
        asked = np.where(np.asarray(grid.renoise), 0, asked)
    return int(asked[done:].sum())


def _stepper(
    sampler: Sampler, denoise: Denoiser, grid: Transition, noise_at: NoiseAt, record: Record | None
) -> Callable[[Carry, Array], tuple[Carry, Any]]:
    """(carry, position 1 … N) → the carry after the step of this position, and its record."""
    grid = jax.tree.map(jnp.asarray, grid)

    def step(carry: Carry, position: Array) -> tuple[Carry, Any]:
        transition = row(grid, position - 1)

        def noise(i: int) -> Array:
            return noise_at(position, i)

        def down(carry: Carry) -> tuple[Carry, Any]:
            return _step(sampler, denoise, carry, transition, noise, record)

        if grid.renoise is None:
            return down(carry)

        def up(carry: Carry) -> tuple[Carry, Any]:
            x = _renoised(carry[0].x, transition).draw(noise(0))
            records = None
            if record is not None:
                nothing = _no_prediction(denoise, carry[0].x, transition.level, carry[1])
                records = record(carry[0], nothing, transition)
            return (sampler.init(x), carry[1]), records

        return jax.lax.cond(transition.renoise, up, down, carry)

    return step


def _step(
    sampler: Sampler,
    denoise: Denoiser,
    carry: Carry,
    transition: Transition,
    noise: Noise,
    record: Record | None,
) -> tuple[Carry, Any]:
    state, memory = carry
    if record is None:
        denoise = denoise if sampler.shifts_mean else score_shift(denoise)
        return sampler.step(denoise, state, memory, transition, noise), None
    watched, empty = _watched(denoise, state.x, transition.level, memory)
    shifted = watched if sampler.shifts_mean else score_shift(watched)
    following, (memory, first, _) = sampler.step(shifted, state, empty, transition, noise)
    return (following, memory), record(state, first, transition)


def _watched(denoise: Denoiser, x_t: Array, level: Level, memory: Any) -> tuple[Denoiser, Any]:
    """The denoiser that keeps its first prediction in its memory, and the initial memory."""

    def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        inner, kept, asked = memory
        prediction, inner = denoise(x_t, level, inner)
        kept = jax.tree.map(lambda old, new: jnp.where(asked, old, new), kept, prediction)
        return prediction, (inner, kept, jnp.ones_like(asked))

    nothing = _no_prediction(denoise, x_t, level, memory)
    return denoise._replace(call=call), (memory, nothing, jnp.zeros((), bool))


def _no_prediction(denoise: Denoiser, x_t: Array, level: Level, memory: Any) -> Prediction:
    """Zeros, like the denoiser's prediction."""
    shape = jax.eval_shape(denoise.call, x_t, level, memory)[0]
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shape)


def _renoised(x_t: Array, transition: Transition) -> Gaussian:
    """q(x_next|x_t) of a transition to a noisier level."""
    mean_xt, log_beta = align((transition.mean_xt, transition.log_beta), x_t)
    return Gaussian(mean_xt * x_t, jnp.exp(log_beta), log_beta)
