"""Improved precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991).

A set of features is represented by the union of balls around each feature that reach its k-th nearest
neighbour in the set. Precision is the share of samples inside the balls of the reference, recall the reverse.
"""

import functools
from typing import NamedTuple

import numpy as np

BLOCK = 512  # rows of a matrix of distances that are in memory at a time


class Coverage(NamedTuple):
    samples: np.ndarray  # bool [N]: inside a ball of the reference; the mean is the precision
    reference: np.ndarray  # bool [M]: inside a ball of the samples; the mean is the recall


def coverage(samples: np.ndarray, reference: np.ndarray, k: int = 3) -> Coverage:
    """Which features [N, D] and [M, D] lie inside the balls of the other set; both need more than k rows.

    Squared distances are |u|² − 2uv + |v|² in float64. Where their rounding leaves it open whether a point is
    inside a ball, differences decide.
    """
    center = np.mean(reference, axis=0, dtype=np.float64)  # far from 0, squares would swallow distances
    a, b = samples - center, reference - center
    radii_a, radii_b = _squared_radii(a, k), _squared_radii(b, k)
    margin_a, margin_b = np.empty(len(a)), np.full(len(b), np.inf)  # least squared distance − squared radius
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = _squared_distances(a[rows], b)
        margin_a[rows] = (distances - radii_b).min(axis=1)
        margin_b = np.minimum(margin_b, (distances - radii_a[rows, None]).min(axis=0))
    # Four times the bound on the rounding of a sum of D products.
    rounding = 8 * (a.shape[1] + 4) * np.finfo(np.float64).eps * max(_squares(a).max(), _squares(b).max())
    return Coverage(
        _decide(margin_a, rounding, samples, reference, radii_b, k),
        _decide(margin_b, rounding, reference, samples, radii_a, k),
    )


def share_error(covered: np.ndarray) -> float:
    """√(p(1 − p)/n), the standard error of the share p of bool [n] for fixed balls.

    It covers draws of the samples for precision, of the reference for recall, but not other balls.
    """
    p = covered.mean()
    return float(np.sqrt(p * (1 - p) / len(covered)))


def squared_radius(features: np.ndarray, index: int, k: int) -> float:
    """The squared distance of a feature to its k-th nearest neighbour, from differences in float64."""
    return np.partition(_squares(features - np.float64(features[index])), k)[k]  # the nearest is itself


def _squared_radii(features: np.ndarray, k: int) -> np.ndarray:
    """float64 [N], with the rounding of products. Each block of distances serves its rows and its columns."""
    nearest = np.full((len(features), k + 1), np.inf)
    for start in range(0, len(features), BLOCK):
        stop = start + BLOCK
        distances = _squared_distances(features[start:stop], features[start:])
        for rows, found in ((slice(start, stop), distances), (slice(stop, None), distances[:, BLOCK:].T)):
            nearest[rows] = np.partition(np.hstack([nearest[rows], found]), k)[:, : k + 1]
    return nearest[:, k]


def _decide(
    margin: np.ndarray, rounding: float, points: np.ndarray, centers: np.ndarray, radii: np.ndarray, k: int
) -> np.ndarray:
    covered = margin <= 0
    radius = functools.cache(lambda index: squared_radius(centers, index, k))
    for row in np.flatnonzero(np.abs(margin) <= rounding):
        distances = _squares(centers - np.float64(points[row]))
        candidates = np.flatnonzero(distances <= radii + rounding)
        covered[row] = any(distances[index] <= radius(index) for index in candidates)
    return covered


def _squared_distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    products = u @ v.T
    products *= -2
    products += _squares(u)[:, None]
    products += _squares(v)
    return products


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum('nd,nd->n', rows, rows)
