"""Resampling: how often particles are chosen, and that no weight is lost. Potentials: they have one sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.particles import (
    POTENTIALS,
    RESAMPLING,
    Lineage,
    effective_sample_size,
    log_mean_exp,
    multinomial,
    remainder,
    resample,
    systematic,
    take,
)

WEIGHTS = np.array([0.05, 0.4, 0.0, 0.25, 0.3])

REWARDS = np.array([[-3.0, -1.0], [-2.0, -4.0], [-2.5, -0.5]])
EXPECTED = {
    'difference': [[-3, -1], [1, -3], [-0.5, 3.5]],
    'max': [[-3, -1], [-2, -1], [-2, -0.5]],
    'sum': [[-3, -1], [-5, -5], [-7.5, -5.5]],
}


def log_weights(shift=0.0):
    with np.errstate(divide='ignore'):
        return jnp.asarray(np.log(WEIGHTS) + shift, jnp.float32)


def test_systematic_is_the_definition():
    for u in (0.0, 0.1, 0.35, 0.7, 0.999):
        cumulated, positions = np.cumsum(WEIGHTS), (u + np.arange(5)) / 5
        expected = [int(np.argmax(cumulated > position)) for position in positions]
        np.testing.assert_array_equal(systematic(log_weights(-700.0), jnp.full(5, u)), expected)


@pytest.mark.parametrize('scheme', RESAMPLING)
def test_the_mean_number_of_children_is_proportional_to_the_weight(scheme):
    draws = 4000
    uniforms = jax.random.uniform(jax.random.key(0), (draws, 5))
    ancestors = RESAMPLING[scheme](jnp.broadcast_to(log_weights(), (draws, 5)), uniforms)
    children = np.stack([(np.asarray(ancestors) == i).sum(1) for i in range(5)], axis=1)
    expected = 5 * WEIGHTS
    error = np.sqrt(expected * (1 - WEIGHTS) / draws) + 1e-9  # of multinomial, the larger one
    assert (np.abs(children.mean(0) - expected) / error).max() < 4
    assert (children[:, 2] == 0).all()
    assert (np.abs(children - expected) < 1).all() == (scheme == 'systematic')


def test_multinomial_draws_each_ancestor_on_its_own():
    uniforms = jnp.array([0.99, 0.0, 0.06, 0.46, 0.69])
    np.testing.assert_array_equal(multinomial(log_weights(), uniforms), [4, 0, 1, 3, 3])


@pytest.mark.parametrize('scheme', RESAMPLING)
@pytest.mark.parametrize('u', [0.0, 1 - 2**-24, 1.0])
def test_numbers_at_the_ends_choose_particles(scheme, u):
    for weights in (jnp.zeros(7), jnp.array([0.0, -jnp.inf, 0.0, -jnp.inf]), jnp.full(3, -1e30)):
        ancestors = RESAMPLING[scheme](weights, jnp.full(len(weights), u))
        assert jnp.isfinite(weights[ancestors]).all()


def test_effective_sample_size():
    np.testing.assert_allclose(effective_sample_size(jnp.full((2, 6), 300.0)), 6, rtol=1e-5)
    np.testing.assert_allclose(effective_sample_size(log_weights(-400)), 1 / np.sum(WEIGHTS**2), rtol=1e-5)
    np.testing.assert_allclose(log_mean_exp(log_weights(90)), 90 - np.log(5), rtol=1e-6)


def test_only_populations_below_the_threshold_are_resampled():
    log_weight = jnp.concatenate([jnp.zeros(5), log_weights(3.0)])
    found = resample(log_weight, jnp.full(10, 0.5), 5, 0.9)
    np.testing.assert_allclose(found.ess, [5.0] * 5 + [1 / np.sum(WEIGHTS**2)] * 5, rtol=1e-5)
    np.testing.assert_array_equal(found.ancestors[:5], range(5))
    np.testing.assert_array_equal(found.ancestors[5:], systematic(log_weights(), jnp.full(5, 0.5)))
    np.testing.assert_allclose(found.log_weight, [0.0] * 5 + [3 - np.log(5)] * 5, rtol=1e-6)
    kept = resample(log_weight, jnp.full(10, 0.5), 5, 0.0)
    np.testing.assert_array_equal(kept.log_weight, log_weight)
    always = resample(log_weight, jnp.full(10, 0.5), 5, 1.0)
    np.testing.assert_array_equal(always.ancestors[:5], range(5))
    np.testing.assert_array_equal(always.log_weight[:5], 0)


def test_rows_are_taken_within_populations():
    ancestors = jnp.array([1, 1, 0, 2, 0, 0])
    tree = {'rows': jnp.arange(12).reshape(6, 2), 'keys': jax.random.split(jax.random.key(0), 6)}
    tree |= {'count': jnp.int32(3), 'others': jnp.arange(4)}
    found = take(tree, ancestors, 3)
    index = np.array([1, 1, 0, 5, 3, 3])
    np.testing.assert_array_equal(found['rows'], tree['rows'][index])
    np.testing.assert_array_equal(
        jax.random.key_data(found['keys']), jax.random.key_data(tree['keys'][index])
    )
    assert found['count'] is tree['count'] and found['others'] is tree['others']


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
