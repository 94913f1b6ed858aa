from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.diffusion import timestep_samplers

update = jax.jit(timestep_samplers.update)
draw = jax.jit(timestep_samplers.draw, static_argnums=2)

BATCH = 6
timesteps = st.lists(st.integers(0, 3), min_size=BATCH, max_size=BATCH)


@settings(deadline=None, max_examples=40)
@given(st.lists(timesteps, max_size=8), st.integers(0, 2**32 - 1))
def test_the_history_holds_the_last_losses_in_order(batches, seed):
    rng = np.random.default_rng(seed)
    state = timestep_samplers.init('loss_second_moment', 4, history_length=3)
    expected = [deque(maxlen=3) for _ in range(4)]
    for t in batches:
        losses = rng.uniform(size=BATCH).astype(np.float32)
        state = update(state, jnp.array(t), losses)
        for i, loss in zip(t, losses, strict=True):
            expected[i].append(loss)
    for i, losses in enumerate(expected):
        assert state['counts'][i] == len(losses)
        np.testing.assert_array_equal(state['history'][i, : len(losses)], list(losses))


HISTORY = np.random.default_rng(0).uniform(0, 1, (3, 10)).astype(np.float32) * [[1], [2], [5]]


def full_state():
    """Timestep 2 is the last whose history is full."""
    state = timestep_samplers.init('loss_second_moment', 3)
    for t, losses in enumerate(HISTORY):
        for loss in losses:
            assert np.all(timestep_samplers.weights(state) == 1), 'uniform until every history is full'
            state = update(state, jnp.array([t]), jnp.array([loss]))
    return state


def test_importance_is_the_root_mean_square_of_the_losses():
    weights, importance = timestep_samplers.weights(full_state()), np.sqrt(np.mean(HISTORY**2, axis=1))
    expected = 0.999 * importance / importance.sum() + 0.001 / 3
    np.testing.assert_allclose(weights / weights.sum(), expected, rtol=1e-6)


@pytest.mark.parametrize('kind', ['uniform', 'loss_second_moment'])
def test_weighted_draws_have_the_expectation_of_uniform_ones(kind):
    uniform = kind == 'uniform'
    state = timestep_samplers.init(kind, 3) if uniform else full_state()
    t, weights = draw(state, jax.random.key(0), 20_000)
    assert t.dtype == jnp.int32 and weights.dtype == jnp.float32
    share = np.array([np.mean(weights * (t == i)) for i in range(3)])
    np.testing.assert_allclose(share, 1 / 3, atol=0.015)
    if uniform:
        np.testing.assert_array_equal(weights, np.ones(20_000))


def test_uniform_learns_nothing():
    state = timestep_samplers.init('uniform', 3)
    after = update(state, jnp.array([0, 2]), jnp.array([1.0, 9.0]))
    np.testing.assert_array_equal(timestep_samplers.weights(after), np.ones(3))
