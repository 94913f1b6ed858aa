"""Improved precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991).

A set of features is taken for the union of balls, one around each feature, that reach its k-th nearest
neighbour in the set. Precision: the share of samples within the balls of the reference. Recall: the reverse.

Squared distances are |u|² − 2uv + |v|², by products of blocks in float32, with a bound on their rounding.
Where that leaves open whether a point is covered, differences in float64 decide: counts are those of float64.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.evaluation.blocks import BLOCK, blocks, joined, products, squared_norms

CACHED = 64  # rows in float64 that stay in a core's cache
LANES = 128  # candidates for the smallest of a row are kept for so many groups of columns


class Coverage(NamedTuple):
    samples: np.ndarray  # bool [N]: within a ball of the reference
    reference: np.ndarray  # bool [M]: within a ball of the samples


class _Set(NamedTuple):
    features: np.ndarray
    points: list[jax.Array]  # the features, moved towards 0
    squares: np.ndarray  # float64 [N]: |point|²
    slack: float  # a squared distance of points is off by at most slack·(|u|² + |v|²)
    low: np.ndarray  # bounds on the squared radii, float64 [N]
    high: np.ndarray


def precision_recall(samples: np.ndarray, reference: np.ndarray, k: int = 3) -> tuple[float, float]:
    """samples [N, D], reference [M, D] of any float type; both sets need more than k features."""
    covered = coverage(samples, reference, k)
    return float(covered.samples.mean()), float(covered.reference.mean())


def coverage(samples: np.ndarray, reference: np.ndarray, k: int = 3) -> Coverage:
    """Which features lie in the balls of the other set; their shares are precision and recall."""
    samples, reference = _scaled(np.asarray(samples), np.asarray(reference))
    mean = np.mean(reference, axis=0, dtype=np.float64)  # far from 0 squares would swallow distances
    a, b = (_with_radii(features, mean, k) for features in (samples, reference))
    reach_a, reach_b = _reaches(a, b)
    return Coverage(_decide(a, b, reach_a, k), _decide(b, a, reach_b, k))


def _scaled(*sets: np.ndarray) -> list[np.ndarray]:
    """All features times one power of 2 where else their squares would leave the range of float32."""
    middle = sets[0][0].astype(np.float64)
    extremes = [np.float64(extreme(features, axis=0)) for features in sets for extreme in (np.min, np.max)]
    largest = np.abs(extremes - middle).max()
    if not largest or 1e-12 < largest < 1e12:
        return list(sets)
    exponent = -int(np.frexp(largest)[1])
    return [np.ldexp(np.asarray(features, np.float64), exponent) for features in sets]


def squared_distances(u: np.ndarray, features: np.ndarray) -> np.ndarray:
    """float64 [N]: from u [D] to features [N, D], by differences in float64, which never cancel."""
    found = []
    for start in range(0, len(features), CACHED):
        difference = features[start : start + CACHED] - u.astype(np.float64)
        found.append(np.einsum('nd,nd->n', difference, difference))
    return np.concatenate(found)


def squared_radius(features: np.ndarray, index: int, k: int) -> float:
    """Of the ball around features[index]: to its k-th nearest neighbour, itself not counted; in float64."""
    return np.partition(squared_distances(features[index], features), k)[k]  # the nearest is itself


def _with_radii(features: np.ndarray, shift: np.ndarray, k: int) -> _Set:
    points = blocks(features, shift=shift)
    squares = squared_norms(points, len(features))
    # Of the move, the norms and the sums 8 roundings at most. Of a product D, which for random signs make √D,
    # and up to 3.5 √D where equal terms, D = 64 … 4096, have them drift (measured on a CPU).
    slack = float(np.finfo(np.float32).eps) * (8 + 4 * features.shape[1] ** 0.5)
    radii = np.maximum(_squared_radii(points, squares, k), 0)
    # The k nearest of u lie no further from 0 than |u| + r, which bounds their rounding.
    error = slack * (squares + (np.sqrt(squares) + np.sqrt(radii)) ** 2)
    return _Set(features, points, squares, slack, radii - error, radii + error)


def _squared_radii(points: list[jax.Array], squares: np.ndarray, k: int) -> np.ndarray:
    """float64 [N], with the rounding of products in float32. Each pair of blocks serves both."""
    norms = blocks(squares, fill=np.inf)  # what fills up a block is nobody's neighbour
    nearest = [jnp.full((BLOCK, k + 1), jnp.inf) for _ in points]
    for i, u in enumerate(points):
        nearest[i], _ = _merge_nearest(u, u, norms[i], norms[i], nearest[i], nearest[i])
        for j in range(i + 1, len(points)):
            nearest[i], nearest[j] = _merge_nearest(u, points[j], norms[i], norms[j], nearest[i], nearest[j])
    return joined([block[:, k] for block in nearest], len(squares))


@jax.jit
def _merge_nearest(u, v, norms_u, norms_v, nearest_u, nearest_v) -> tuple[jax.Array, jax.Array]:
    """The smallest squared distances of each row [BLOCK, k + 1], after those between two blocks are seen."""
    distances = norms_u[:, None] - 2 * products(u, v) + norms_v
    return _smallest(distances, nearest_u, axis=1), _smallest(distances, nearest_v, axis=0)


def _smallest(distances: jax.Array, nearest: jax.Array, axis: int) -> jax.Array:
    """Rows of `nearest`, in order, with what is smaller along an axis of the distances taken in."""
    # top_k of long rows is slow on CPUs: an elementwise insertion sort leaves it few candidates.
    candidates = jnp.split(distances, BLOCK // LANES, axis)
    kept = [jnp.full_like(candidates[0], jnp.inf)] * nearest.shape[1]
    for candidate in candidates:
        for rank, smaller in enumerate(kept):
            kept[rank] = jnp.minimum(smaller, candidate)
            candidate = jnp.maximum(smaller, candidate)
    rest = jnp.concatenate([*kept, jnp.moveaxis(nearest, 1, axis)], axis)
    return -jax.lax.top_k(-jnp.moveaxis(rest, axis, 1), nearest.shape[1])[0]


def _reaches(a: _Set, b: _Set) -> tuple[np.ndarray, np.ndarray]:
    """[N, 2] and [M, 2]: for each point u the largest of r² + 2uv − |v|² over the balls of the other set.

    That is at least |u|² where a ball covers it. The first takes the smaller bound of r² and overestimates
    distances, the second does the reverse.
    """

    def balls(of: _Set) -> list[jax.Array]:
        surely, perhaps = of.low - (1 + of.slack) * of.squares, of.high - (1 - of.slack) * of.squares
        return blocks(np.stack([surely, perhaps], axis=1), fill=-np.inf)

    balls_a, balls_b = balls(a), balls(b)
    reach_a, reach_b = ([jnp.full((BLOCK, 2), -jnp.inf) for _ in of.points] for of in (a, b))
    for i, u in enumerate(a.points):
        for j, v in enumerate(b.points):
            reach_a[i], reach_b[j] = _merge_reach(u, v, balls_a[i], balls_b[j], reach_a[i], reach_b[j])
    return joined(reach_a, len(a.squares)), joined(reach_b, len(b.squares))


@jax.jit
def _merge_reach(u, v, balls_u, balls_v, reach_u, reach_v) -> tuple[jax.Array, jax.Array]:
    twice = 2 * products(u, v)
    of_u = jnp.max(twice + balls_v.T[:, None, :], axis=2).T
    of_v = jnp.max(twice + balls_u.T[:, :, None], axis=1).T
    return jnp.maximum(reach_u, of_u), jnp.maximum(reach_v, of_v)


def _decide(points: _Set, balls: _Set, reach: np.ndarray, k: int) -> np.ndarray:
    covered = reach[:, 0] >= (1 + points.slack) * points.squares
    perhaps = reach[:, 1] >= (1 - points.slack) * points.squares
    radius = functools.cache(lambda index: squared_radius(balls.features, index, k))
    for row in np.flatnonzero(perhaps & ~covered):
        distances = squared_distances(points.features[row], balls.features)
        inside = distances - balls.high
        candidates = np.argsort(inside)[: np.count_nonzero(inside <= 0)]
        covered[row] = any(distances[index] <= radius(index) for index in candidates)
    return covered
