"""The kernel Inception distance: Bińkowski et al. 2018 (arXiv 1801.01401).

The unbiased estimate of MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y), with k(x, y) = (x·y/D + 1)³, over all
pairs. The usual mean over random subsets estimates the same number, with noise of its own.
"""

import numpy as np

BLOCK = 512  # rows of a matrix of kernels that are in memory at a time


def kid(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """KID and its standard error over draws of both sets, by the jackknife; in float64.

    samples [N, D] and reference [M, D] of any float type, N and M at least 3. KID is unbiased and may be < 0.
    """
    x, y = np.asarray(samples, np.float64), np.asarray(reference, np.float64)
    within_x, within_y = _sums_within(x), _sums_within(y)
    across_x, across_y = _sums_across(x, y)
    n, m = len(x), len(y)
    value = within_x.sum() / (n * (n - 1)) + within_y.sum() / (m * (m - 1)) - 2 * across_x.sum() / (n * m)
    return float(value), float(np.sqrt(_jackknife(within_x, across_x, m) + _jackknife(within_y, across_y, n)))


def _sums_within(x: np.ndarray) -> np.ndarray:
    """[N]: the kernel of each feature summed over all others. Each block serves its rows and its columns."""
    sums = np.zeros(len(x))
    for start in range(0, len(x), BLOCK):
        values = _kernel(x[start : start + BLOCK], x[start:])
        np.fill_diagonal(values, 0)
        sums[start : start + BLOCK] += values.sum(axis=1)
        sums[start + BLOCK :] += values[:, BLOCK:].sum(axis=0)
    return sums


def _sums_across(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] and [M]: the kernel of each feature summed over the other set."""
    sums_x, sums_y = np.empty(len(x)), np.zeros(len(y))
    for start in range(0, len(x), BLOCK):
        values = _kernel(x[start : start + BLOCK], y)
        sums_x[start : start + BLOCK] = values.sum(axis=1)
        sums_y += values.sum(axis=0)
    return sums_x, sums_y


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    values = x @ y.T
    values /= x.shape[1]
    values += 1
    return values * values * values


def _jackknife(within: np.ndarray, across: np.ndarray, num_others: int) -> float:
    """The variance that one set contributes to the estimate, from leaving out each of its features."""
    n = len(within)
    without = (within.sum() - 2 * within) / ((n - 1) * (n - 2))
    without -= 2 * (across.sum() - across) / ((n - 1) * num_others)
    return (n - 1) * without.var()
