"""The kernel Inception distance: Bińkowski et al. 2018 (arXiv 1801.01401).

The unbiased estimate of MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y), with k(x, y) = (x·y/D + 1)³, over all
pairs. The usual mean over random subsets estimates this very number, with noise of its own.
"""

from __future__ import annotations

import jax
import numpy as np

from diffusion_jax.evaluation.blocks import BLOCK, blocks, joined, products, squared_norms

ROUNDING = float(np.finfo(np.float32).eps)  # of a kernel's value, which is computed in float32
NEGLIGIBLE = 1e-3  # an error of this size does not matter; features of Inception have one of 1e-7


def kid(samples: np.ndarray, reference: np.ndarray) -> float:
    """samples [N, D], reference [M, D] of any float type. May fall below 0, being unbiased."""
    return kid_and_error(samples, reference)[0]


def kid_and_error(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """KID and its standard error over draws of both sets, by the jackknife.

    Each set needs two features, three for the error, which is nan else. Both are nan where features are so
    large, or so far from 0, that most of them would be rounding.
    """
    x, y = blocks(samples), blocks(reference)
    within_x, within_y = _sums_within(x, samples.shape), _sums_within(y, reference.shape)
    across_x, across_y = _sums_across(x, y, len(samples), len(reference))
    n, m = len(samples), len(reference)
    mean_x, mean_y = (w.sum() / (len(w) * (len(w) - 1)) for w in (within_x, within_y))
    value = mean_x + mean_y - 2 * across_x.sum() / (n * m)
    error = np.sqrt(_jackknife(within_x, across_x, m) + _jackknife(within_y, across_y, n))
    if ROUNDING * (mean_x + mean_y) > max(error, NEGLIGIBLE):
        return np.nan, np.nan
    return float(value), float(error)


def _jackknife(within: np.ndarray, across: np.ndarray, num_others: int) -> float:
    """The variance that one set gives to the estimate, from what it would be without each of the features."""
    n = len(within)
    if n < 3:
        return np.nan
    without = (within.sum() - 2 * within) / ((n - 1) * (n - 2))
    without -= 2 * (across.sum() - across) / ((n - 1) * num_others)
    return (n - 1) * without.var()


def _sums_within(points: list[jax.Array], shape: tuple[int, ...]) -> np.ndarray:
    """float64 [N]: for each feature, k − 1 summed over all others."""
    sums = np.zeros((len(points), BLOCK))
    for i, u in enumerate(points):
        sums[i] += _block_sums(u, u)[0]
        for j in range(i + 1, len(points)):
            of_u, of_v = _block_sums(u, points[j])
            sums[i] += of_u
            sums[j] += of_v
    num_rows, dim = shape
    return joined(sums, num_rows) - _kernel(squared_norms(points, num_rows) / dim)


def _sums_across(x: list[jax.Array], y: list[jax.Array], n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] and [M]: for each feature, k − 1 summed over the other set."""
    sums_x, sums_y = np.zeros((len(x), BLOCK)), np.zeros((len(y), BLOCK))
    for i, u in enumerate(x):
        for j, v in enumerate(y):
            of_u, of_v = _block_sums(u, v)
            sums_x[i] += of_u
            sums_y[j] += of_v
    return joined(sums_x, n), joined(sums_y, m)


@jax.jit
def _block_sums(u: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    values = _kernel(products(u, v) / u.shape[1])
    return values.sum(axis=1), values.sum(axis=0)


def _kernel(p):
    """(p + 1)³ − 1. The constant leaves MMD as it is; rows of 0 that fill up a block now add nothing."""
    return p * (p * (p + 3) + 3)
