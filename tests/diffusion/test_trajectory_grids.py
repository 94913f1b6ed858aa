"""Grids chosen over trajectories; tests/test_golden.py compares with recorded ones."""

import itertools

import numpy as np
import pytest

from diffusion_jax.diffusion.trajectory_grids import METRICS, cheapest_path, cost_matrix, sigma_text


@pytest.mark.parametrize('coefficient', [0.8, 1.0, 1.15])
def test_the_path_is_the_cheapest_of_all(coefficient):
    cost = np.triu(np.random.default_rng(0).uniform(size=(9, 9)), 1)

    def of(path):
        return sum(coefficient**k * cost[i, j] for k, (i, j) in enumerate(itertools.pairwise(path)))

    for nodes in range(2, 10):
        every = [(0, *inner, 8) for inner in itertools.combinations(range(1, 8), nodes - 2)]
        assert cheapest_path(cost, nodes, coefficient) == list(min(every, key=of))


def test_straight_trajectories_cost_nothing_and_curved_ones_what_a_step_misses():
    sigmas = np.array([4.0, 3.0, 1.0, 0.5])
    slope = np.random.default_rng(0).standard_normal((2, 2, 2, 1))
    straight = sigmas[:, None, None, None, None] * slope
    for metric in METRICS:
        cost = cost_matrix(straight, np.broadcast_to(slope, straight.shape), sigmas, metric)
        np.testing.assert_allclose(cost, 0, atol=1e-12)
    x = np.zeros((3, 1, 1, 1, 2))
    x[:, 0, 0, 0] = [[0, 0], [1, 1], [2, 0]]  # at σ = 2, 1, 0
    eps = -np.array([[[1, 0]], [[1, 0]], [[1, -1]]], float)[:, None, None]
    costs = {metric: cost_matrix(x, eps, np.array([2.0, 1.0, 0.0]), metric) for metric in METRICS}
    np.testing.assert_allclose(costs['l2'], [[0, 1, 0], [0, 0, 1], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(costs['l1'], [[0, 1, 0], [0, 0, 1], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(costs['dev'], [[0, -1, 0], [0, 0, 1], [0, 0, 0]], atol=1e-12)


def test_the_text_of_a_grid():
    assert sigma_text(np.array([80.0, 9.25, 0.002])) == 'sigma:80,9.25,0.002'
