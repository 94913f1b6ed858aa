"""Integrals of interpolated estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.samplers.multistep import empty, exponential_moments, push, relative, weights

RATES = [-3.0, -0.7, -1e-3, 0.0, 1e-6, 0.05, 0.9, 1.1, 7.0]


def quadrature(rate, i):
    s, w = np.polynomial.legendre.leggauss(60)
    s = (s + 1) / 2
    return np.sum(w / 2 * rate * np.exp(-rate * (1 - s)) * s**i)


@pytest.mark.parametrize('rate', RATES)
def test_moments_of_the_exponential(rate):
    expected = [quadrature(rate, i) for i in range(4)]
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            exponential_moments(jnp.float64(rate), 4), expected, rtol=1e-12, atol=1e-15
        )
    np.testing.assert_allclose(exponential_moments(jnp.float32(rate), 4), expected, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_polynomials_of_a_lower_degree_are_integrated_exactly(count):
    nodes, moments = np.array([0.0, 1.0, -0.4, -1.7]), np.array([1 / (i + 1) for i in range(4)])
    with jax.enable_x64(True):
        w = np.asarray(weights(jnp.asarray(nodes), count, jnp.asarray(moments)))
    for degree in range(4):
        equal = np.isclose(np.sum(w * nodes**degree), moments[degree], rtol=0, atol=1e-12)
        assert equal == (degree < count)
    np.testing.assert_array_equal(w[count:], 0)


def test_a_second_estimate_at_the_same_node_replaces_the_first():
    history = empty(jnp.zeros((1, 1, 1, 1)), 3)
    for node, value in ((5.0, 1.0), (4.0, 2.0), (4.0, 3.0)):
        history = push(history, jnp.full((1, 1, 1, 1), value), jnp.float32(node))
    assert history.length == 2
    np.testing.assert_array_equal(np.ravel(history.values)[:2], [3, 1])
    np.testing.assert_array_equal(history.nodes[:2], [4, 5])
    np.testing.assert_allclose(relative(history.nodes, history.length, jnp.float32(-2.0)), [0, -0.5, 3])
