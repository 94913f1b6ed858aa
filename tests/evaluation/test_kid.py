"""KID against brute force and closed forms."""

import numpy as np
import pytest

from diffusion_jax.evaluation.kid import BLOCK, kid


def kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def brute_force(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    n, m = len(x), len(y)
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return sum(within) - 2 * kernel(x, y).sum() / (n * m)


def features(count, seed, offset=0.0, dim=6):
    return (offset + np.random.default_rng(seed).normal(size=(count, dim))).astype(np.float32)


@pytest.mark.parametrize(('n', 'm'), [(BLOCK + 44, 70), (30, 2 * BLOCK)])
def test_equals_brute_force(n, m):
    x, y = features(n, 0, offset=0.1), features(m, 1)
    np.testing.assert_allclose(kid(x, y)[0], brute_force(x, y), rtol=1e-9)


def test_small_distances_of_large_kernels_keep_their_digits():
    """Values of k near 3.4, as those of Inception's features, that differ by a thousandth."""
    x, y = (np.abs(features(900, seed, dim=200)) + seed / 1000 for seed in (0, 1))
    expected = brute_force(x, y)
    assert 1e-5 < abs(expected) < 1e-2
    np.testing.assert_allclose(kid(x, y)[0], expected, rtol=1e-9)


def test_unit_vectors_by_hand():
    """k is 1 between different unit vectors of three dimensions and (4/3)³ between equal ones."""
    first, second = np.eye(3)[[0, 0, 0]], np.eye(3)[[1, 1, 1]]
    np.testing.assert_allclose(kid(first, second)[0], 2 * (4 / 3) ** 3 - 2, rtol=1e-12)
    expected = 2 - 2 * (6 + 3 * (4 / 3) ** 3) / 9
    np.testing.assert_allclose(kid(np.eye(3), np.eye(3))[0], expected, rtol=1e-12)


def test_is_unbiased():
    """The mean over draws from one distribution is 0: some estimates are negative."""
    estimates = [kid(features(20, 2 * seed), features(20, 2 * seed + 1))[0] for seed in range(100)]
    assert min(estimates) < 0
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / 10


def test_error_is_that_of_leaving_each_out():
    x, y = features(12, 0, offset=0.5), features(9, 1)
    variance = 0.0
    for n, of in ((12, lambda i: (np.delete(x, i, 0), y)), (9, lambda i: (x, np.delete(y, i, 0)))):
        variance += (n - 1) * np.var([brute_force(*of(i)) for i in range(n)])
    np.testing.assert_allclose(kid(x, y)[1], np.sqrt(variance), rtol=1e-9)


def test_error_is_the_spread_over_draws():
    sets = ((features(60, 2 * seed, offset=0.4), features(80, 2 * seed + 1)) for seed in range(100))
    estimates, errors = np.transpose([kid(x, y) for x, y in sets])
    assert 0.8 < np.mean(errors) / np.std(estimates) < 1.25
