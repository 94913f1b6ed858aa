"""The Inception score at its extremes and against its definition."""

import numpy as np

from diffusion_jax.evaluation.inception_score import inception_score


def test_certain_and_diverse_gives_the_number_of_classes():
    np.testing.assert_allclose(inception_score(1e4 * np.eye(10)), 10, rtol=1e-12)


def test_certain_of_one_class_gives_one():
    np.testing.assert_allclose(inception_score(np.tile([1e4, 0, 0], (5, 1))), 1, rtol=1e-12)


def test_undecided_gives_one():
    np.testing.assert_allclose(inception_score(np.zeros((5, 10))), 1, rtol=1e-12)


def test_splits_are_averaged_with_equal_weight():
    logits = np.random.default_rng(0).normal(size=(25, 7)) * 2
    scores = []
    for part in (logits[:10], logits[10:20], logits[20:]):
        p = np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        scores.append(np.exp(np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1))))
    np.testing.assert_allclose(inception_score(logits, split_size=10), np.mean(scores), rtol=1e-12)


def test_splits_of_5000_are_the_default():
    logits = np.random.default_rng(0).normal(size=(5001, 3))
    assert inception_score(logits) == inception_score(logits, 5000) != inception_score(logits, 5001)


def test_large_logits_and_classes_that_never_occur():
    logits = np.float32([[1e30, 0, -1e30], [0, 1e30, -1e30], [1e30, 0, -1e30]])
    marginal = np.array([2, 1]) / 3
    expected = np.exp(-np.sum(marginal * np.log(marginal)))
    np.testing.assert_allclose(inception_score(logits), expected, rtol=1e-12)
