"""One training on one device and on eight, in three meshes: the same numbers, and what devices exchange."""

import dataclasses
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax import models
from diffusion_jax.planning.collectives import exchanged
from diffusion_jax.sharding import MIN_SHARDED_SIZE, make_mesh, put_batch
from diffusion_jax.training.objectives import Objective, draw_noise
from diffusion_jax.training.program import first_state, train_program
from tests.tiers import fast_for
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, TRAIN, UNET, UPSAMPLER
from tests.training.test_step import NUM_TIMESTEPS, batch_of, objective_of, params_of

MESHES = [(8, 1), (2, 4), (1, 8)]


def mesh_of(sizes):
    return make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])


def gradient(state):
    """The gradient of the first step: Adam's first moment after it is a tenth of it."""
    return jax.device_get(jax.tree.map(lambda moment: 10 * moment, optax.tree.get(state.opt_state, 'mu')))


def train(step, state, mesh, num_steps):
    """Losses of all steps, the gradient of the first and the last state."""
    losses, first = [], None
    for i in range(num_steps):
        state, metrics = step(state, put_batch(mesh, batch_of(i)))
        losses.append(float(metrics['loss'][0] / metrics['loss'][1]))
        first = gradient(state) if i == 0 else first
    return losses, first, state


@functools.cache
def training(network, sizes, config=TRAIN):
    """The compiled step of a network on a mesh, and what comes of 20 steps."""
    return start_and_train(objective_of(network), network, config, params_of(network), mesh_of(sizes))


def start_and_train(objective, network, config, params, mesh):
    program = train_program(objective, network, config, mesh)
    state = first_state(objective, network, config, program.arguments[0], jax.random.key(0), params)
    compiled = program.lower().compile()
    return compiled, *train(compiled, state, mesh, 20)


def num_elements(arrays):
    return sum(math.prod(shape) for dtype, shape in arrays if dtype == 'f32' and shape)


def bytes_on(device, tree):
    """What all arrays of a tree take on one device."""
    leaves = [
        jax.random.key_data(a) if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key) else a
        for a in jax.tree.leaves(tree)
    ]
    return sum(shard.data.nbytes for a in leaves for shard in a.addressable_shards if shard.device == device)


def check_same_numbers(network, sizes, config=TRAIN):
    _, alone, alone_gradient, _ = training(network, (1, 1), config)
    _, together, together_gradient, state = training(network, sizes, config)
    assert np.ptp(alone) > 0.01
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    difference = optax.tree.norm(jax.tree.map(np.subtract, together_gradient, alone_gradient))
    assert difference < 1e-5 * optax.tree.norm(alone_gradient)
    assert int(state.step) == 20


@pytest.mark.parametrize('sizes', fast_for([(8, 1), (2, 4), (1, 8)], [(2, 4)]))
def test_every_mesh_gives_the_numbers_of_one_device(sizes):
    check_same_numbers(CONDITIONAL_UNET, sizes)


def test_data_parallel_devices_exchange_gradients_alone():
    compiled, _, _, state = training(CONDITIONAL_UNET, (8, 1))
    arrays = exchanged(compiled.as_text())
    assert arrays.keys() == {'all-reduce'}
    assert num_elements(arrays['all-reduce']) == sum(p.size for p in jax.tree.leaves(state.params))


@pytest.mark.parametrize('sizes', [(2, 4), pytest.param((1, 8), marks=pytest.mark.slow)])
def test_fully_sharded_devices_exchange_parameters_and_gradients_alone(sizes):
    """No image, activation or embedding crosses from device to device."""
    compiled, _, _, state = training(CONDITIONAL_UNET, sizes)
    params = jax.tree.leaves(state.params)
    split = sorted(sorted(p.shape) for p in params if p.size >= MIN_SHARDED_SIZE)
    arrays = exchanged(compiled.as_text())
    assert arrays.keys() == {'all-gather', 'all-reduce'}
    assert sorted(sorted(shape) for _, shape in arrays['all-gather']) == split
    # Without a reduce-scatter on CPUs whole gradients are summed over 'fsdp', then their parts over 'data'.
    data, fsdp = sizes
    parts = sum(map(math.prod, split)) // fsdp if data > 1 else 0
    assert num_elements(arrays['all-reduce']) == sum(p.size for p in params) + parts


@pytest.mark.parametrize('sizes', [(8, 1), (2, 4), pytest.param((1, 8), marks=pytest.mark.slow)])
def test_no_device_keeps_what_another_has(sizes):
    """Between steps: a large array lies in parts, and averages and moments as their parameters do."""
    compiled, _, _, state = training(CONDITIONAL_UNET, sizes)
    ways = sizes[1]
    expected = 0
    for leaf in jax.tree.leaves(state):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        size = 8 if key else leaf.nbytes
        expected += size // ways if leaf.size >= MIN_SHARDED_SIZE else size
    held = {bytes_on(device, state) for device in jax.devices()}
    assert held == {expected}
    batch = sum(array.nbytes for array in batch_of(0).values()) // math.prod(sizes)
    assert compiled.memory_analysis().argument_size_in_bytes == expected + batch
    moments = [optax.tree.get(state.opt_state, name) for name in ('mu', 'nu')]
    for tree in (*state.ema.values(), *moments):
        assert jax.tree.map(lambda a: a.sharding, tree) == jax.tree.map(lambda a: a.sharding, state.params)


def float64_losses(params, inputs, key):
    """Of a network of two layers that rounds nothing to float32, as our networks do."""
    x_0, eps = (inputs[name].astype(jnp.float64) for name in ('x_0', 'eps'))
    weight = (inputs['t'] / NUM_TIMESTEPS)[:, None, None, None]
    x_t = (1 - weight) * x_0 + weight * eps
    h = jax.lax.conv_general_dilated(
        x_t, params['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    h = jnp.tanh(h + params['label'][inputs['y']][:, None, None])
    return {'loss': jnp.mean((h @ params['out'] - eps) ** 2, axis=(1, 2, 3))}


@functools.cache
def float64_training(sizes):
    """The first parameters, and parameters, averages and moments after 20 steps."""
    shapes = {'kernel': (3, 3, 1, 512), 'label': (10, 512), 'out': (512, 1)}
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), len(shapes))
        params = {
            name: 0.1 * jax.random.normal(key, shape, jnp.float64)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        objective = Objective(draw_noise, float64_losses, NUM_TIMESTEPS)
        with mock.patch.object(models, 'init', lambda network, key: params):  # the shapes of a state
            *_, state = start_and_train(objective, UNET, TRAIN, params, mesh_of(sizes))
        return jax.device_get((params, (state.params, state.ema, state.opt_state)))


@pytest.mark.slow
@pytest.mark.parametrize('sizes', MESHES)
def test_in_float64_the_parameters_are_the_same(sizes):
    first, alone = float64_training((1, 1))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), alone[0], first)
    assert min(jax.tree.leaves(moved)) > 1e-3
    pairs = zip(jax.tree.leaves(alone), jax.tree.leaves(float64_training(sizes)[1]), strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype == (np.float64 if one.ndim else np.int32)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize('sizes', MESHES)
@pytest.mark.parametrize('network', [CLASSIFIER, UPSAMPLER], ids=['classifier', 'upsampler'])
def test_every_network_gives_the_numbers_of_one_device(network, sizes):
    check_same_numbers(network, sizes)


@pytest.mark.slow
@pytest.mark.parametrize('sizes', MESHES)
def test_microbatches_and_importance_sampling_give_the_numbers_of_one_device(sizes):
    config = dataclasses.replace(TRAIN, microbatches=2, timestep_sampler='loss_second_moment', clip_norm=0.5)
    check_same_numbers(CONDITIONAL_UNET, sizes, config)
