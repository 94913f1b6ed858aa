"""Steps whose loss or gradient is not finite, made so by the labels of a batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training.objectives import Objective, draw_noise
from diffusion_jax.training.step import init_state, make_train_step, skipped_steps
from tests.tiny import TRAIN

NUM_TIMESTEPS = 8
CONFIG = dataclasses.replace(
    TRAIN,
    batch_size=4,
    warmup_steps=5,
    clip_norm=1.0,
    ema_rates=(0.9,),
    ema_warmup=True,
    timestep_sampler='loss_second_moment',
)
GOOD, NAN_LOSS, INFINITE_LOSS, NAN_GRADIENT = 0, 1, 2, 3


def losses(params, inputs, key):
    """(w·x_0 − eps)², and where a label says so what it should not be."""
    y, w = inputs['y'], params['w']
    loss = jnp.mean((w * inputs['x_0'] - inputs['eps']) ** 2, axis=(1, 2, 3))
    loss = jnp.where(y == NAN_LOSS, jnp.nan, jnp.where(y == INFINITE_LOSS, jnp.inf, loss))
    zero = jnp.where(y == NAN_GRADIENT, 0.0, 1.0) * w[0, 0, 0]  # the root's slope there is infinite
    return {'loss': loss + 0 * jnp.sqrt(jnp.abs(zero))}


def batch_of(step, label=GOOD):
    images = np.random.default_rng(step).integers(0, 256, (CONFIG.batch_size, 2, 2, 1), dtype=np.uint8)
    return {'image': images, 'label': np.asarray([GOOD, GOOD, label, GOOD], np.int32)}


@functools.cache
def compiled_step():
    return jax.jit(make_train_step(Objective(draw_noise, losses, NUM_TIMESTEPS), CONFIG), donate_argnums=0)


def start():
    return init_state({'w': jnp.full((2, 2, 1), 0.5)}, CONFIG, NUM_TIMESTEPS, jax.random.key(0))


def leaves(state):
    """Every array but the step number, on the host."""
    state = state._replace(step=None, key=jax.random.key_data(state.key))
    return [np.array(leaf) for leaf in jax.tree.leaves(state)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('label', [NAN_LOSS, INFINITE_LOSS, NAN_GRADIENT])
def test_a_step_that_is_not_finite_changes_nothing(label):
    state, _ = compiled_step()(start(), batch_of(0))
    before = leaves(state)
    state, metrics = compiled_step()(state, batch_of(1, label))
    assert_same(leaves(state), before)
    assert int(state.step) == 2 and skipped_steps(state) == 1
    assert all(float(total) == 0 and int(count) == 0 for total, count in metrics.values())
    state, metrics = compiled_step()(state, batch_of(2))
    assert all(np.any(one != other) for one, other in zip(leaves(state)[:1], before, strict=False))
    assert int(metrics['grad_norm'][1]) == 1 and np.isfinite(metrics['grad_norm'][0])


def test_a_run_with_a_bad_step_is_the_run_that_passes_it_over():
    """The next step has the data and the draws of its number, and the rates of its update."""
    ours, theirs = start(), start()
    for step in range(5):
        average = np.array(ours.ema['0.9']['w'])
        ours, metrics = compiled_step()(ours, batch_of(step, NAN_LOSS if step == 2 else GOOD))
        if step == 2:
            theirs = theirs._replace(step=theirs.step + 1)
        else:
            theirs, _ = compiled_step()(theirs, batch_of(step))
    assert_same(leaves(ours), leaves(theirs))
    assert int(ours.step) == int(theirs.step) == 5
    assert float(metrics['learning_rate'][0]) == pytest.approx(3 / 5 * CONFIG.learning_rate)
    rate = (1 + 4) / (10 + 4)
    expected = rate * average + (1 - rate) * ours.params['w']
    np.testing.assert_allclose(ours.ema['0.9']['w'], expected, rtol=0, atol=1e-6)
    assert np.ptp(ours.params['w'] - average) > 1e-4


def test_the_state_is_used_up():
    """Selecting between two states does not keep both."""
    before = start()
    compiled_step()(before, batch_of(0, NAN_LOSS))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.ema, before.opt_state)))
