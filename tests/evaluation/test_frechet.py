"""The Fréchet distance against closed forms, and moments against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.evaluation.frechet import BLOCK, Moments, fit, frechet_distance, moments


def features(count, dim, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    return offset + rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim))


def test_moments_are_mean_and_unbiased_covariance():
    f = features(50, 4)
    mean, covariance = moments(f)
    np.testing.assert_allclose(mean, f.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(f, rowvar=False), rtol=1e-12)


def test_moments_of_float32_are_computed_in_float64():
    f = features(100, 3, offset=1000).astype(np.float32)
    mean, covariance = moments(f)
    assert mean.dtype == covariance.dtype == np.float64
    np.testing.assert_allclose(covariance, np.cov(f.astype(np.float64), rowvar=False), rtol=1e-9)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=6), st.integers(0, 99))
def test_batches_and_their_order_do_not_matter(sizes, seed):
    f = features(sum(sizes), 3, seed, offset=1e4)
    parts = np.split(f, np.cumsum(sizes)[:-1])
    np.random.default_rng(seed).shuffle(parts)
    total = fit(parts)
    np.testing.assert_allclose(total.mean, f.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(total.covariance, np.cov(f, rowvar=False), rtol=1e-8, atol=1e-8)


def test_rows_may_repeat():
    f = features(BLOCK + 30, 3, offset=100)
    rows = np.random.default_rng(0).integers(len(f), size=len(f))
    for ours, expected in zip(moments(f, rows), moments(f[rows]), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10)
    np.testing.assert_allclose(moments(f).covariance, np.cov(f, rowvar=False), rtol=1e-10)


@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(0, 9999))
def test_commuting_covariances_have_a_closed_form(dim, seed):
    """With common eigenvectors, d² = |μ_a − μ_b|² + Σ (√λ_a − √λ_b)²; eigenvalues may be 0."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    roots = rng.uniform(0, 3, (2, dim)) * (rng.random((2, dim)) < 0.7)
    means = rng.normal(size=(2, dim))
    a, b = (Moments(mean, (basis * root**2) @ basis.T) for mean, root in zip(means, roots, strict=True))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((roots[0] - roots[1]) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=50)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 9999))
def test_distance_is_symmetric_and_never_negative(n, m, seed):
    """Also with fewer samples than features, where both covariances are singular."""
    a, b = moments(features(n, 10, seed)), moments(features(m, 10, seed + 1))
    distance = frechet_distance(a, b)
    assert distance > 0
    np.testing.assert_allclose(distance, frechet_distance(b, a), rtol=1e-9)
    scale = np.trace(a.covariance)
    assert 0 <= frechet_distance(a, a) < 1e-12 * scale


@pytest.mark.parametrize(('n', 'm'), [(20, 25), (60, 25), (60, 80)])
def test_distance_of_few_samples_is_that_of_their_gram_matrix(n, m):
    """Tr (Σ_a Σ_b)^½ is the nuclear norm of the centred X_a X_bᵀ: an exact way that takes no root at all."""
    x, y = features(n, 40, 0), features(m, 40, 1)
    a, b = moments(x), moments(y)
    gram = (x - a.mean) @ (y - b.mean).T / np.sqrt((n - 1) * (m - 1))
    cross = np.linalg.svd(gram, compute_uv=False).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + traces - 2 * cross
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)
