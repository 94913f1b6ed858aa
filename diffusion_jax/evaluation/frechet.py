"""The Fréchet distance between two Gaussians, fitted to features: FID where the features are Inception's.

Heusel et al. 2017 (arXiv 1706.08500):  d² = |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

BLOCK = 4096  # so many features are in float64 at a time


class Gaussian(NamedTuple):
    mean: np.ndarray  # float64 [D]
    covariance: np.ndarray  # float64 [D, D]


class Moments(NamedTuple):
    """What remains of features seen so far; `Moments()` has seen none."""

    count: int = 0
    mean: np.ndarray | float = 0.0  # float64 [D]
    scatter: np.ndarray | float = 0.0  # float64 [D, D]: the sum of (f − mean)(f − mean)ᵀ


def update(moments: Moments, features: np.ndarray, counts: np.ndarray | None = None) -> Moments:
    """Adds features [N, D] of any float type; with counts, positive [N], each so many times."""
    features = np.asarray(features, np.float64)
    mean = np.average(features, axis=0, weights=counts)
    centered = features - mean
    if counts is not None:
        centered *= np.sqrt(counts)[:, None]
    count = len(features) if counts is None else int(counts.sum())
    return merge(moments, Moments(count, mean, centered.T @ centered))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both sets together, without cancellation (Chan, Golub, LeVeque 1979)."""
    count = a.count + b.count
    shift = b.mean - a.mean
    mean = a.mean + shift * (b.count / count)
    scatter = np.outer(shift, shift * (a.count * b.count / count))
    scatter += a.scatter
    scatter += b.scatter
    return Moments(count, mean, scatter)


def gaussian(moments: Moments) -> Gaussian:
    """Mean and unbiased covariance."""
    return Gaussian(moments.mean, moments.scatter / (moments.count - 1))


def moments(features: np.ndarray) -> Gaussian:
    """Mean and unbiased covariance of features [N, D] of any float type."""
    total = Moments()
    for start in range(0, len(features), BLOCK):
        total = update(total, features[start : start + BLOCK])
    return gaussian(total)


def resampled_moments(features: np.ndarray, counts: np.ndarray) -> Gaussian:
    """The same with features[i] there counts[i] times."""
    drawn = np.flatnonzero(counts)
    total = Moments()
    for start in range(0, len(drawn), BLOCK):
        rows = drawn[start : start + BLOCK]
        total = update(total, features[rows], counts[rows])
    return gaussian(total)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """d², never negative, also where covariances are singular.

    Tr (Σ_a Σ_b)^½ is the sum of the singular values of F_aᵀ F_b, for any factors in Σ = F Fᵀ. They keep the
    digits that eigenvalues of Σ_a Σ_b, or of the symmetric Σ_a^½ Σ_b Σ_a^½, lose: a root would turn roundings
    of 1e-16 into 1e-8.
    """
    cross = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    difference = np.sum((a.mean - b.mean) ** 2)
    return max(float(difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F [D, rank]: Cholesky's factor with pivots, which ends where what remains is rounding of 0."""
    lower, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]  # LAPACK counts from 1
    return factor
