"""Improved precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991).

A set of features is taken for the union of balls, one around each feature, that reach its k-th nearest
neighbour in the set. Precision: the share of samples within the balls of the reference. Recall: the reverse.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

ROWS = 256  # distances are held for so many features at a time


def precision_recall(samples: np.ndarray, reference: np.ndarray, k: int = 3) -> tuple[float, float]:
    """samples [N, D], reference [M, D]; both sets need more than k features. Computed in float32."""
    samples, reference = jnp.asarray(samples, jnp.float32), jnp.asarray(reference, jnp.float32)
    precision = np.asarray(covered(samples, reference, squared_radii(reference, k))).mean()
    recall = np.asarray(covered(reference, samples, squared_radii(samples, k))).mean()
    return float(precision), float(recall)


@functools.partial(jax.jit, static_argnames='k')
def squared_radii(features: jax.Array, k: int) -> jax.Array:
    """[N]: the squared distance of each feature to its k-th nearest neighbour, itself not counted."""

    def squared_radius(u):
        negated, _ = jax.lax.top_k(-_squared_distances(u, features), k + 1)  # the nearest is u itself
        return -negated[k]

    return jax.lax.map(squared_radius, features, batch_size=ROWS)


@jax.jit
def covered(points: jax.Array, centers: jax.Array, squared_radii: jax.Array) -> jax.Array:
    """bool [N]: which points lie within any of the balls."""

    def is_covered(u):
        return jnp.any(_squared_distances(u, centers) <= squared_radii)

    return jax.lax.map(is_covered, points, batch_size=ROWS)


def _squared_distances(u: jax.Array, features: jax.Array) -> jax.Array:
    # |u|² − 2uv + |v|² would be faster, but cancels where features lie close together; this never does.
    return jnp.sum((features - u) ** 2, axis=-1)
