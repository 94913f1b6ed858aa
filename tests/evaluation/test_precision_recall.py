"""Precision and recall against brute force in float64: counts are equal, whatever the features."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.evaluation import precision_recall as module
from diffusion_jax.evaluation.precision_recall import BLOCK, coverage, squared_radius

DIM = 6


def precision_recall(samples, reference, k=3):
    covered = coverage(samples, reference, k)
    return covered.samples.mean(), covered.reference.mean()


def brute_force(samples, reference, k=3):
    def distances(a, b):
        return np.sum((a[:, None].astype(np.float64) - b[None]) ** 2, axis=-1)

    def covered(points, centers):
        radii = np.sort(distances(centers, centers), axis=1)[:, k]
        return (distances(points, centers) <= radii).any(axis=1)

    return covered(samples, reference), covered(reference, samples)


def normal(count, seed, scale=1.0, offset=0.0, dim=DIM):
    return (offset + scale * np.random.default_rng(seed).normal(size=(count, dim))).astype(np.float32)


def assert_exact(samples, reference, k=3):
    for ours, expected in zip(
        coverage(samples, reference, k), brute_force(samples, reference, k), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize('scale', [1e-30, 1e-13, 1e13, 1e30, 1e60])
def test_features_of_any_scale(scale):
    a, b = (scale * normal(count, seed).astype(np.float64) for count, seed in ((40, 0), (50, 1)))
    assert_exact(a, b)
    assert 0 < precision_recall(a, b)[0] < 1


def test_features_far_from_0_in_float64():
    a, b = (1e9 + normal(count, seed).astype(np.float64) for count, seed in ((40, 0), (50, 1)))
    assert_exact(a, b)


@pytest.mark.parametrize('k', [1, 3])
@pytest.mark.parametrize('offset', [0.0, 1000.0])
def test_equals_brute_force(k, offset):
    """Also far from 0, and with a number of features that blocks do not divide."""
    samples = normal(BLOCK + 44, 0, scale=0.8, offset=offset)
    reference = normal(BLOCK - 3, 1, offset=offset)
    expected = tuple(covered.mean() for covered in brute_force(samples, reference, k))
    assert 0.1 < min(expected) and max(expected) < 0.999
    assert precision_recall(samples, reference, k) == expected


def test_set_sizes_that_blocks_divide():
    assert_exact(normal(BLOCK, 0, scale=0.8), normal(2 * BLOCK, 1))


def test_usual_features_need_no_differences(monkeypatch):
    """Only points within rounding of a border take the slow path, also where all features are far from 0."""
    monkeypatch.setattr(module, 'squared_radius', None)
    samples, reference = normal(BLOCK + 44, 0, scale=0.8, offset=100), normal(BLOCK - 3, 1, offset=100)
    assert 0.1 < precision_recall(samples, reference)[0] < 0.999


@pytest.mark.parametrize('spread', [1e-3, 1e-7, 0.0])
def test_near_duplicates(spread):
    """Groups so tight that |u|² − 2uv + |v|² loses the digits of their distances."""
    rng = np.random.default_rng(0)
    centers = normal(20, 1)
    samples, reference = (
        np.float32(centers[rng.integers(20, size=n)] + spread * normal(n, n)) for n in (90, 130)
    )
    assert_exact(samples, reference)


def test_borders_of_a_lattice():
    """Distances that equal radii, everywhere."""
    rng = np.random.default_rng(0)
    samples, reference = (np.float32(rng.integers(0, 4, (n, DIM))) for n in (50, 70))
    assert_exact(samples, reference)


def test_an_outlier_does_not_blur_the_others():
    reference = normal(100, 0)
    reference[0] = 1e4
    assert_exact(normal(80, 1, scale=0.8), reference)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    scale=st.sampled_from([1e-4, 0.5, 1.0, 30.0]),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    step=st.sampled_from([0.0, 0.5, 2.0]),
    repeated=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_any_features_give_the_counts_of_float64(sizes, scale, offset, step, repeated, seed):
    samples, reference = normal(sizes[0], seed, scale, offset), normal(sizes[1], seed + 1, 1.0, offset)
    if step:  # many equal distances and features
        samples, reference = (step * np.round(features / step) for features in (samples, reference))
    if repeated:
        samples[: len(samples) // 2] = reference[0]
    assert_exact(samples, reference)


def test_of_a_set_with_itself_is_one():
    features = normal(50, 0)
    assert precision_recall(features, features) == (1, 1)


def test_of_sets_far_apart_is_zero():
    assert precision_recall(normal(50, 0), normal(60, 1, offset=100)) == (0, 0)


def test_nothing_covers_the_empty_middle():
    """Where the reference's mean lies, and what fills up blocks."""
    one_side = normal(50, 0, offset=10)
    covered = coverage(np.concatenate([np.zeros((1, DIM)), one_side]), np.concatenate([one_side, -one_side]))
    assert covered.samples.tolist() == [False] + 50 * [True]


def test_samples_of_one_mode_are_precise_but_recall_little():
    reference = np.concatenate([normal(50, 0), normal(50, 1, offset=50)])
    precision, recall = precision_recall(normal(80, 2, scale=0.5), reference)
    assert precision > 0.9
    assert 0 < recall < 0.55


def test_samples_that_are_all_one_image():
    """The balls of equal samples have radius 0: they cover only what equals them."""
    reference = normal(50, 0)
    covered = coverage(np.repeat(reference[7:8], 20, axis=0), reference)
    assert covered.samples.all()
    assert np.flatnonzero(covered.reference).tolist() == [7]


def test_radius_leaves_out_the_feature_itself():
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert [squared_radius(line, index, 1) for index in range(4)] == [1, 1, 4, 16]
    assert [squared_radius(line, index, 3) for index in range(4)] == [49, 36, 16, 49]
