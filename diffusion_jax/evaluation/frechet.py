"""The Fréchet distance between two Gaussians, fitted to features: FID where the features are Inception's.

Heusel et al. 2017 (arXiv 1706.08500):  d² = |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    mean: np.ndarray  # float64 [D]
    covariance: np.ndarray  # float64 [D, D]


class Moments(NamedTuple):
    """What remains of features seen so far; `Moments()` has seen none."""

    count: int = 0
    mean: np.ndarray | float = 0.0  # float64 [D]
    scatter: np.ndarray | float = 0.0  # float64 [D, D]: the sum of (f − mean)(f − mean)ᵀ


def update(moments: Moments, features: np.ndarray) -> Moments:
    """Adds features [N, D] of any float type."""
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    centered = features - mean
    return merge(moments, Moments(len(features), mean, centered.T @ centered))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both sets together, without cancellation (Chan, Golub, LeVeque 1979)."""
    count = a.count + b.count
    shift = b.mean - a.mean
    mean = a.mean + shift * (b.count / count)
    return Moments(count, mean, a.scatter + b.scatter + np.outer(shift, shift) * (a.count * b.count / count))


def gaussian(moments: Moments) -> Gaussian:
    """Mean and unbiased covariance."""
    return Gaussian(moments.mean, moments.scatter / (moments.count - 1))


def moments(features: np.ndarray) -> Gaussian:
    """Mean and unbiased covariance of features [N, D] that fit in memory."""
    return gaussian(update(Moments(), features))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """d², never negative, also where covariances are singular.

    Tr (Σ_a Σ_b)^½ is the sum of the singular values of Σ_a^½ Σ_b^½; only symmetric matrices need a root.
    """
    cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    difference = np.sum((a.mean - b.mean) ** 2)
    return max(float(difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root. Eigenvalues that are rounding of 0 count as 0: roots would make 1e-16 to 1e-8."""
    values, vectors = np.linalg.eigh(covariance)
    smallest = values[-1] * len(values) * np.finfo(np.float64).eps
    return (vectors * np.sqrt(np.where(values > smallest, values, 0.0))) @ vectors.T
