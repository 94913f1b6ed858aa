"""The Fréchet distance between Gaussians fitted to two sets of features; FID if the features are Inception's.

Heusel et al. 2017 (arXiv 1706.08500):  d² = |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

BLOCK = 4096  # features that are converted to float64 at a time


class Moments(NamedTuple):
    mean: np.ndarray  # float64 [D]
    covariance: np.ndarray  # float64 [D, D], unbiased


def fit(blocks: Iterable[np.ndarray]) -> Moments:
    """Mean and covariance of features in blocks [N_i, D] of any float type."""
    count, origin, total, products = 0, np.zeros(()), np.zeros(()), np.zeros(())
    for block in blocks:
        block = np.asarray(block, np.float64)
        origin = origin if count else block.mean(axis=0)  # close to the mean, against cancellation
        block = block - origin
        count += len(block)
        total = total + block.sum(axis=0)
        products = products + block.T @ block
    shift = total / count
    return Moments(origin + shift, (products - np.outer(shift, total)) / (count - 1))


def moments(features: np.ndarray, rows: np.ndarray | None = None) -> Moments:
    """Mean and covariance of features [N, D], or of some of them, which may repeat."""
    rows = np.arange(len(features)) if rows is None else rows
    return fit(features[rows[start : start + BLOCK]] for start in range(0, len(rows), BLOCK))


def frechet_distance(a: Moments, b: Moments) -> float:
    """d², never negative, also for singular covariances.

    Tr (Σ_a Σ_b)^½ is the sum of the singular values of F_aᵀ F_b, for any factors in Σ = F Fᵀ. They keep the
    digits that eigenvalues of Σ_a Σ_b lose: their roots would turn roundings of 1e-16 into 1e-8.
    """
    cross = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    difference = np.sum((a.mean - b.mean) ** 2)
    return max(float(difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross), 0.0)


def frechet_error(features: np.ndarray, reference: Moments, num_resamples: int, seed: int = 0) -> float:
    """The standard error of the distance of features [N, D] to a fixed reference, by the bootstrap.

    It estimates the spread over other samples of the same number, not the bias of a finite number.
    """
    rng, count = np.random.default_rng(seed), len(features)
    resamples = (moments(features, rng.integers(count, size=count)) for _ in range(num_resamples))
    return float(np.std([frechet_distance(resample, reference) for resample in resamples], ddof=1))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F [D, rank]: the pivoted Cholesky factor, which ends where the remainder is rounding of 0."""
    lower, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]  # LAPACK counts from 1
    return factor
