"""A checksum of every array that detects changed bits and does not depend on the sharding.

Orbax stores no checksums of array data: bits that a disk flips are restored silently.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


def digest(tree: Any) -> dict[str, int]:
    """Path of a leaf → Σ hash(bits, index) mod 2³² over its elements."""
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(tree)[0], strict=True)
    numbers = []
    for leaf in leaves:
        numbers.append(_digest(leaf))
        if (
            jax.default_backend() == 'cpu'
        ):  # programs with collectives that run at once starve each other there
            numbers[-1].block_until_ready()
    return {
        jax.tree_util.keystr(path): int(n) for path, n in zip(paths, jax.device_get(numbers), strict=True)
    }


@jax.jit  # of one leaf: compiled once for every shape, not for every tree
def _digest(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    bits = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}').astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        stride = math.prod(leaf.shape[axis + 1 :]) % 2**32
        index += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
    # Mixed so that two changes cannot cancel in the sum, as two changed signs would in a linear one.
    mixed = (bits ^ (index * jnp.uint32(2654435761))) * jnp.uint32(2246822519)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(3266489917)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
