"""A number for every array that changes when bits of it do, the same for any sharding.

Orbax stores no checksums of array data: what a disk damages comes back unnoticed.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


def digest(tree: Any) -> dict[str, int]:
    """Path of a leaf → Σ hash(bits, index) mod 2³² over its elements."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    # One after the other: hundreds of programs with collectives at once can starve each other on CPU devices.
    return {jax.tree_util.keystr(path): int(_digest(leaf)) for path, leaf in leaves}


@jax.jit  # compiled once for every shape, not for every tree
def _digest(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    bits = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}').astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        stride = math.prod(leaf.shape[axis + 1 :]) % 2**32
        index += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
    # Mixed so that no two changes can cancel in the sum, as those of two signs would in a linear one.
    mixed = (bits ^ (index * jnp.uint32(2654435761))) * jnp.uint32(2246822519)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(3266489917)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
