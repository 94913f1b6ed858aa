"""The loop that all samplers share, and its noise: image i depends on its own key and on nothing else.

Which images share a batch, on how many devices, in which order: none of it changes the noise of an image.
"""

from __future__ import annotations

from collections.abc import Callable

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
    step: Callable[[Array, Transition, Array], Array], transitions: Transition, keys: Array, x_T: Array
) -> Array:
    """x_0 from x_T: the rows of a table [T] of transitions, the last row (the most noise) first.

    Args:
      step: (x_t, transition of shape [B], noise) → x_{t-1}.
      keys: typed, [B]; see `per_sample_noise`.
    """
    batch, *shape = x_T.shape
    num_steps = len(transitions.level.t)

    def body(x_t: Array, position: Array) -> tuple[Array, None]:
        transition = row(transitions, jnp.full(batch, num_steps - position))
        return step(x_t, transition, per_sample_noise(keys, position, tuple(shape))), None

    return jax.lax.scan(body, x_T, jnp.arange(1, num_steps + 1))[0]
