"""States of training: how tests of checkpoints save, describe and compare them."""

import dataclasses
import functools

import jax
import numpy as np

from diffusion_jax import models
from diffusion_jax.sharding import abstract_on, make_mesh, param_shardings
from diffusion_jax.training.step import init_state
from tests.tiny import TRAIN, UNET

CONFIG = dataclasses.replace(TRAIN, timestep_sampler='loss_second_moment')


@functools.cache
def state_of():
    params = jax.jit(models.init, static_argnums=0)(UNET, jax.random.key(0))
    return with_averages(init_state(params, CONFIG, 100, jax.random.key(7)))


@functools.cache
def small_state():
    """Of no network: every array takes time."""
    kernel = jax.random.normal(jax.random.key(0), (16, 512))
    params = {'kernel': kernel, 'bias': kernel[0, :7]}
    return with_averages(init_state(params, CONFIG, 100, jax.random.key(7)))


def with_averages(state):
    """Averages that differ from the parameters and from each other."""
    ema = {
        rate: jax.tree.map(functools.partial(jax.numpy.add, float(rate)), state.params) for rate in state.ema
    }
    return state._replace(ema=ema)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def save(checkpoints, state, step):
    checkpoints.save(state._replace(step=np.int32(step)), {'next_index': step}, models.describe_network(UNET))


def mesh_of(num_devices):
    return make_mesh(1, num_devices, devices=jax.devices()[:num_devices])


def abstract(mesh=None):
    state = small_state()
    return abstract_on(param_shardings(mesh or mesh_of(1), state), state)


def said(caplog):
    """The messages of the package."""
    return [record.getMessage() for record in caplog.records if record.name.startswith('diffusion_jax')]
