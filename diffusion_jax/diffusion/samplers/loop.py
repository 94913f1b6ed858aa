"""The loop that all samplers share, and its noise: image i depends on its own key and on nothing else.

Which images share a batch, on how many devices, in which order: none of it changes the noise of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.process import Transition
from diffusion_jax.diffusion.schedules import row


def per_sample_noise(keys: Array, position: Array | int, shape: tuple[int, ...]) -> Array:
    """N(0, 1) of [B, *shape], float32; image i's is drawn from keys[i] and the position alone.

    keys: typed, [B].
    """

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, position), shape, jnp.float32)

    return jax.vmap(draw)(keys)


def initial_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """x_T for images of `shape` [H, W, C]: position 0 of the per-sample noise; the steps take 1, 2, …, T."""
    return per_sample_noise(keys, 0, shape)


def sample_loop(
    step: Callable[[Array, Transition, Array], Any],
    transitions: Transition,
    keys: Array,
    x_T: Array,
    *,
    has_aux: bool = False,
) -> Any:
    """x_0 from x_T: the rows of a table [T] of transitions, the last row (the most noise) first.

    Args:
      step: (x_t, transition of shape [B], noise) → x_{t-1}; with `has_aux` → (x_{t-1}, what to record).
      keys: typed, [B]; see `per_sample_noise`.

    Returns:
      x_0; with `has_aux` also the records of all steps, stacked: [T, …], the noisiest step first.
    """
    at = _at(step, transitions, keys)

    def body(x_t: Array, position: Array) -> tuple[Array, Any]:
        return at(x_t, position) if has_aux else (at(x_t, position), None)

    x_0, records = jax.lax.scan(body, x_T, jnp.arange(1, len(transitions.level.t) + 1))
    return (x_0, records) if has_aux else x_0


def sample_steps(
    step: Callable[[Array, Transition, Array], Array],
    transitions: Transition,
    keys: Array,
    x_t: Array,
    done: Array,
    until: Array,
) -> Array:
    """A part of `sample_loop`: x after `until` steps from x after `done`, both int32 [] and traced."""
    at = _at(step, transitions, keys)
    return jax.lax.fori_loop(done + 1, until + 1, lambda position, x: at(x, position), x_t)


def _at(
    step: Callable[[Array, Transition, Array], Any], transitions: Transition, keys: Array
) -> Callable[[Array, Array], Any]:
    """(x_t, position 1 … T) → what the step of this position returns."""
    num_steps = len(transitions.level.t)

    def at(x_t: Array, position: Array) -> Any:
        batch, *shape = x_t.shape
        transition = row(transitions, jnp.full(batch, num_steps - position))
        return step(x_t, transition, per_sample_noise(keys, position, tuple(shape)))

    return at
