"""Precision and recall against brute force in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.evaluation import precision_recall as module
from diffusion_jax.evaluation.precision_recall import covered, precision_recall, squared_radii


def brute_force(samples, reference, k):
    def distances(a, b):
        return np.sum((a[:, None].astype(np.float64) - b[None]) ** 2, axis=-1)

    def share(points, centers):
        radii = np.sort(distances(centers, centers), axis=1)[:, k]
        return (distances(points, centers) <= radii).any(axis=1).mean()

    return share(samples, reference), share(reference, samples)


def normal(count, dim, seed, scale=1.0, offset=0.0):
    return (offset + scale * np.random.default_rng(seed).normal(size=(count, dim))).astype(np.float32)


@pytest.mark.parametrize('k', [1, 3, 5])
@pytest.mark.parametrize('offset', [0.0, 1000.0])
def test_equals_brute_force(k, offset):
    """Counts are equal, also far from 0, and with a number of features that blocks do not divide."""
    samples = normal(module.ROWS + 44, 6, 0, scale=0.8, offset=offset)
    reference = normal(module.ROWS - 3, 6, 1, offset=offset)
    expected = brute_force(samples, reference, k)
    assert 0.1 < min(expected) and max(expected) < 0.999
    assert precision_recall(samples, reference, k) == expected


def test_of_a_set_with_itself_is_one():
    features = normal(50, 4, 0)
    assert precision_recall(features, features) == (1, 1)


def test_of_sets_far_apart_is_zero():
    assert precision_recall(normal(50, 4, 0), normal(60, 4, 1, offset=100)) == (0, 0)


def test_samples_of_one_mode_are_precise_but_recall_little():
    reference = np.concatenate([normal(50, 4, 0), normal(50, 4, 1, offset=50)])
    precision, recall = precision_recall(normal(80, 4, 2, scale=0.5), reference)
    assert precision > 0.9
    assert 0 < recall < 0.55


def test_samples_that_are_all_one_image():
    """The balls of equal samples have radius 0: they cover only what equals them."""
    reference = normal(50, 4, 0)
    assert precision_recall(np.repeat(reference[:1], 20, axis=0), reference) == (1, 1 / 50)


def test_radius_leaves_out_the_feature_itself():
    line = jnp.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_array_equal(squared_radii(line, 1), [1, 1, 4, 16])
    np.testing.assert_array_equal(squared_radii(line, 3), [49, 36, 16, 49])


def test_a_ball_contains_its_border():
    centers, radii = jnp.array([[0.0]]), jnp.array([4.0])
    np.testing.assert_array_equal(covered(jnp.array([[2.0], [-2.0], [2.001]]), centers, radii), [1, 1, 0])
