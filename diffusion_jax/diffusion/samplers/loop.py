"""The loop that all samplers share. The noise of an image depends on its own key and on nothing else."""

from __future__ import annotations

import functools
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

# (position, i) → the i-th draw of the step at this position, 1 … N; the first draw at position 0 is x_T.
NoiseAt = Callable[[Array | int, Array | int], Array]
# (state before a step, the first prediction in it before its gradient is applied, transition) → any pytree.
Record = Callable[[Any, Prediction, Transition], Any]
# The state of the sampler and the memory of the denoiser.
Carry = tuple[Any, Any]


def noise_of(keys: Array, shape: tuple[int, ...]) -> NoiseAt:
    """N(0, 1), float32 [B, *shape], from one typed key for each image."""

    def noise_at(position: Array | int, i: Array | int) -> Array:
        first = isinstance(i, int) and i == 0

        def draw(key: Array) -> Array:
            key = jax.random.fold_in(key, position)
            return jax.random.normal(key if first else jax.random.fold_in(key, i), shape, jnp.float32)

        return jax.vmap(draw)(keys)

    return noise_at


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
      record: what to keep of every step; where only noise is added, the prediction is 0.
      remat: recomputes each step in a backward pass, which then keeps one state a step.

    Returns:
      The last state, whose x is x_0; and the records of all steps, stacked, [N, …], or None.
    """
    step = _stepper(sampler, denoise, grid, noise_at, record)
    positions = jnp.arange(1, len(grid.level.t) + 1)
    carry = start(sampler, denoise, x_T)
    (state, _), records = jax.lax.scan(jax.checkpoint(step) if remat else step, carry, positions)
    return state, records


def start(sampler: Sampler, denoise: Denoiser, x_T: Array) -> Carry:
    """The state and the memory before the first step."""
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
    """The steps done + 1, …, until of `sample`; both are int32 [] and traced."""
    step = _stepper(sampler, denoise, grid, noise_at, None)
    return jax.lax.fori_loop(done + 1, until + 1, lambda position, carry: step(carry, position)[0], carry)


def evaluations(sampler: Sampler, grid: Transition, done: int = 0) -> int:
    """The number of evaluations of the denoiser for each image after `done` steps; the grid is NumPy."""
    asked = np.where(np.asarray(grid.next.sigma) == 0, sampler.last_evaluations, sampler.evaluations)
    if grid.renoise is not None:
        asked = np.where(np.asarray(grid.renoise), 0, asked)
    return int(asked[done:].sum())


def _stepper(
    sampler: Sampler, denoise: Denoiser, grid: Transition, noise_at: NoiseAt, record: Record | None
) -> Callable[[Carry, Array], tuple[Carry, Any]]:
    """(carry, position 1 … N) → the carry after the step at this position, and its record."""
    grid = jax.tree.map(jnp.asarray, grid)

    def step(carry: Carry, position: Array) -> tuple[Carry, Any]:
        transition = row(grid, position - 1)
        arguments = sampler, denoise, transition, functools.partial(noise_at, position), record
        if grid.renoise is None:
            return _step(*arguments, carry)
        branches = functools.partial(_renoise, *arguments), functools.partial(_step, *arguments)
        return jax.lax.cond(transition.renoise, *branches, carry)

    return step


def _step(
    sampler: Sampler,
    denoise: Denoiser,
    transition: Transition,
    noise: Noise,
    record: Record | None,
    carry: Carry,
) -> tuple[Carry, Any]:
    state, memory = carry
    if record is not None:
        denoise, memory = _keep_first(denoise, state.x, transition.level, memory)
    shifted = denoise if sampler.shifts_mean else score_shift(denoise)
    following, memory = sampler.step(shifted, state, memory, transition, noise)
    if record is None:
        return (following, memory), None
    memory, first, _ = memory
    return (following, memory), record(state, first, transition)


def _renoise(
    sampler: Sampler,
    denoise: Denoiser,
    transition: Transition,
    noise: Noise,
    record: Record | None,
    carry: Carry,
) -> tuple[Carry, Any]:
    """A transition to a noisier level: x ~ q(x_next|x_t), and the sampler starts again."""
    (state, memory), records = carry, None
    if record is not None:
        records = record(state, _no_prediction(denoise, state.x, transition.level, memory), transition)
    mean_xt, log_beta = align((transition.mean_xt, transition.log_beta), state.x)
    x = Gaussian(mean_xt * state.x, jnp.exp(log_beta), log_beta).draw(noise(0))
    return (sampler.restart(state, x), memory), records


def _keep_first(denoise: Denoiser, x_t: Array, level: Level, memory: Any) -> tuple[Denoiser, Any]:
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
