import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax import models
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.diffusion import timestep_samplers
from diffusion_jax.sharding import make_mesh
from diffusion_jax.training.objectives import Objective, classifier_objective, diffusion_objective, draw_noise
from diffusion_jax.training.program import train_program
from diffusion_jax.training.step import batch_metrics, init_state, make_train_step, mean_gradients
from tests.tiers import fast_for
from tests.tiny import CLASSIFIER, DIFFUSION, TRAIN, UNET, UPSAMPLER

NUM_TIMESTEPS = DIFFUSION.num_timesteps


@functools.cache
def batch_of(step, size=TRAIN.batch_size):
    source = digits_source('train')
    rows = slice(step * size, (step + 1) * size)
    return {'image': source.images[rows], 'label': source.labels[rows]}


@functools.cache
def params_of(config):
    """Parameters without zeros: every path of the network carries gradients."""
    params = jax.jit(models.init, static_argnums=0)(config, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [a + 0.02 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )


def objective_of(config):
    if config is CLASSIFIER:
        return classifier_objective(config, DIFFUSION)
    return diffusion_objective(config, DIFFUSION, (4, 4) if config.low_res else None)


def inputs_of(size):
    batch = jax.tree.map(jnp.asarray, batch_of(0, size))
    t = jax.random.randint(jax.random.key(2), (size,), 0, NUM_TIMESTEPS)
    weight = jax.random.uniform(jax.random.key(3), (size,), minval=0.5, maxval=2.0)
    return draw_noise(jax.random.key(4), batch, t) | {'weight': weight}


@pytest.mark.parametrize(
    'config', fast_for([UPSAMPLER, CLASSIFIER], [CLASSIFIER]), ids=['upsampler', 'classifier']
)
def test_accumulated_gradients_are_those_of_the_whole_batch(config):
    inputs = inputs_of(8)
    gradients = jax.jit(functools.partial(mean_gradients, objective_of(config).losses), static_argnums=3)
    whole, whole_values = gradients(params_of(config), inputs, None, 1)
    parts, part_values = gradients(params_of(config), inputs, None, 4)
    scale = optax.tree.norm(whole)
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, whole, parts))) < 1e-5 * float(scale)
    for name in whole_values:
        np.testing.assert_allclose(part_values[name], whole_values[name], rtol=1e-4, atol=1e-6)


def test_metrics_by_quartile():
    inputs = {'t': jnp.asarray([0, 24, 25, 99]), 'weight': jnp.asarray([1.0, 1.0, 2.0, 1.0])}
    metrics = batch_metrics({'loss': jnp.asarray([1.0, 3.0, 4.0, 5.0])}, inputs, 100)
    means = {name: float(total / count) for name, (total, count) in metrics.items() if count}
    assert means == {'loss': 17 / 4, 'loss_q0': 2.0, 'loss_q1': 8.0, 'loss_q3': 5.0}


def test_importance_sampling_fills_its_history():
    config = dataclasses.replace(TRAIN, timestep_sampler='loss_second_moment')
    state = init_state(params_of(UNET), config, NUM_TIMESTEPS, jax.random.key(0))
    step = jax.jit(make_train_step(objective_of(UNET), config))
    for i in range(3):
        state, metrics = step(state, jax.tree.map(jnp.asarray, batch_of(i)))
        assert np.isfinite(metrics['loss'][0])
    assert int(state.timestep_sampler['counts'].sum()) == 3 * config.batch_size


def test_the_loss_history_is_not_weighted():
    """Importance sampling draws timesteps with weights unlike 1; the loss of timestep t is t + 1."""
    config = dataclasses.replace(TRAIN, timestep_sampler='loss_second_moment')

    def losses(params, inputs, key):
        return {'loss': params['w'] * (inputs['t'] + 1.0)}

    history = jnp.tile(jnp.linspace(1, 3, 20)[:, None], 10)
    state = init_state({'w': jnp.ones(())}, config, 20, jax.random.key(0))
    state = state._replace(timestep_sampler={'history': history, 'counts': jnp.full(20, 10, jnp.int32)})
    new, _ = jax.jit(make_train_step(Objective(draw_noise, losses, 20), config))(
        state, jax.tree.map(jnp.asarray, batch_of(0))
    )
    recorded = np.asarray(new.timestep_sampler['history'])
    changed = np.any(recorded != history, axis=1)
    assert 1 < changed.sum() < 20
    np.testing.assert_array_equal(recorded[changed, -1], np.flatnonzero(changed) + 1)


def test_every_draw_has_its_own_key():
    """Of timesteps, noise and dropout; and of dropout in each microbatch."""
    keys = {}

    def draw(key, batch, t):
        keys.update(noise=key, t=t)
        return draw_noise(key, batch, t)

    def losses(params, inputs, key):
        return {'loss': params['w'] * jnp.full(inputs['t'].shape, jax.random.uniform(key))}

    def mean_loss(microbatches):
        config = dataclasses.replace(TRAIN, microbatches=microbatches)
        state = init_state({'w': jnp.ones(())}, config, 100, jax.random.key(0))
        step = make_train_step(Objective(draw, losses, 100), config)
        return step(state, jax.tree.map(jnp.asarray, batch_of(0)))[1]['loss'][0] / 16

    sampler = timestep_samplers.init('uniform', 100)
    dropout = mean_loss(1)
    assert np.any(timestep_samplers.draw(sampler, keys['noise'], 16)[0] != keys['t'])
    assert dropout != jax.random.uniform(keys['noise'])
    params, inputs = {'w': jnp.ones(())}, {'t': jnp.arange(16), 'weight': jnp.ones(16)}
    _, values = mean_gradients(losses, params, inputs, jax.random.key(5), 4)
    parts = np.asarray(values['loss']).reshape(4, 4)
    assert len(set(parts[0])) == 4 and np.all(parts == parts[0])


def test_the_state_is_donated():
    program = train_program(objective_of(UNET), UNET, TRAIN, make_mesh(devices=jax.devices()[:1]))
    (state, batch), _ = program.lower().args_info
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves(batch))


def test_a_step_draws_by_its_number_alone():
    """States that differ in nothing but the step number draw different noise; of one number, the same."""
    init = init_state(params_of(UNET), TRAIN, NUM_TIMESTEPS, jax.random.key(0))
    step = jax.jit(make_train_step(objective_of(UNET), TRAIN))
    batch = jax.tree.map(jnp.asarray, batch_of(0))
    first, again, other = (step(init._replace(step=jnp.asarray(i)), batch)[1]['loss'][0] for i in (5, 5, 6))
    assert first == again != other
