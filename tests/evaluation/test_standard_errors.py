"""Standard errors against the spread over independent draws."""

import numpy as np
import pytest

from diffusion_jax.evaluation.frechet import Moments, frechet_distance, frechet_error, moments
from diffusion_jax.evaluation.inception_score import inception_score, inception_score_error
from diffusion_jax.evaluation.precision_recall import share_error

DRAWS = 150


def draw(seed, count=200, dim=4):
    return 0.5 + 1.2 * np.random.default_rng(seed).normal(size=(count, dim))


def ratio(metric, error, of=draw):
    """The mean standard error of some draws, as a share of the metric's spread over all."""
    errors = [error(of(seed)) for seed in range(20)]
    return np.mean(errors) / np.std([metric(of(seed)) for seed in range(DRAWS)])


def test_frechet_error_is_the_spread_over_draws():
    reference = Moments(np.zeros(4), np.eye(4))
    found = ratio(
        lambda features: frechet_distance(moments(features), reference),
        lambda features: frechet_error(features, reference, 20),
    )
    assert 0.8 < found < 1.25


@pytest.mark.parametrize('split_size', [200, 60])
def test_inception_score_error_is_the_spread_over_draws(split_size):
    found = ratio(
        lambda logits: inception_score(logits, split_size),
        lambda logits: inception_score_error(logits, 20, split_size),
    )
    assert 0.75 < found < 1.35


def test_errors_shrink_with_the_root_of_the_number_of_samples():
    reference = Moments(np.zeros(4), np.eye(4))
    few, many = (
        np.mean([frechet_error(draw(seed, count), reference, 20) for seed in range(10)])
        for count in (100, 1600)
    )
    assert 3 < few / many < 5.3


def test_a_seed_decides():
    reference, features = Moments(np.zeros(4), np.eye(4)), draw(0)
    errors = [frechet_error(features, reference, 20, seed) for seed in (0, 0, 1)]
    assert errors[0] == errors[1] != errors[2]
    errors = [inception_score_error(features, 20, seed=seed) for seed in (0, 0, 1)]
    assert errors[0] == errors[1] != errors[2]


def test_share_error():
    covered = np.arange(100) < 20
    assert share_error(covered) == pytest.approx(0.04)
    spread = np.std([(np.random.default_rng(seed).random(100) < 0.2).mean() for seed in range(1000)])
    assert share_error(covered) == pytest.approx(spread, rel=0.1)
    assert share_error(np.ones(5, bool)) == 0
