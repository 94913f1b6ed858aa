"""Potentials: they differ on the way and have one sum."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.particles import POTENTIALS, Lineage, remainder

REWARDS = np.array([[-3.0, -1.0], [-2.0, -4.0], [-2.5, -0.5]])
EXPECTED = {
    'difference': [[-3, -1], [1, -3], [-0.5, 3.5]],
    'max': [[-3, -1], [-2, -1], [-2, -0.5]],
    'sum': [[-3, -1], [-5, -5], [-7.5, -5.5]],
}


@pytest.mark.parametrize('name', POTENTIALS)
def test_the_definitions_and_the_last_potential(name):
    potential, running = POTENTIALS[name]
    lineage, found = Lineage(jnp.zeros(2), jnp.full(2, running)), []
    for rewards in REWARDS:
        log_potential, lineage = potential(jnp.asarray(rewards), lineage)
        found.append(log_potential)
    np.testing.assert_allclose(found, EXPECTED[name])
    last = jnp.array([-0.25, -0.75])
    np.testing.assert_allclose(np.sum(found, axis=0) + remainder(last, lineage), last, rtol=1e-6)


@pytest.mark.parametrize('name', POTENTIALS)
def test_a_weight_of_zero_stays_zero(name):
    potential, running = POTENTIALS[name]
    lineage, log_weight = Lineage(jnp.zeros(1), jnp.full(1, running)), jnp.zeros(1)
    for reward in (-jnp.inf, -jnp.inf, -1.0):
        log_potential, lineage = potential(jnp.full(1, reward), lineage)
        log_weight = log_weight + log_potential
    assert log_weight + remainder(jnp.zeros(1), lineage) == -jnp.inf
