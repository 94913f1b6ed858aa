import dataclasses
import functools

import jax
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.errors import UserError
from diffusion_jax.sharding import make_mesh, param_shardings
from diffusion_jax.training.checkpoints import Checkpoints, describe_network, latest_step, load_params
from diffusion_jax.training.step import init_state
from tests.tiny import CLASSIFIER, TRAIN, UNET

CONFIG = dataclasses.replace(TRAIN, timestep_sampler='loss_second_moment')


@functools.cache
def state_of(seed=0):
    params = jax.jit(models.init, static_argnums=0)(UNET, jax.random.key(seed))
    return init_state(params, CONFIG, 100, jax.random.key(7))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp('checkpoints')
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (10, 20, 30):
            state = state_of()._replace(step=np.int32(step))
            checkpoints.save(state, {'next_index': step}, describe_network(UNET))
    return directory


def test_everything_comes_back_on_another_mesh(saved):
    mesh = make_mesh(2, 4)
    abstract = jax.eval_shape(lambda: state_of())
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        param_shardings(mesh, abstract),
    )
    with Checkpoints(saved) as checkpoints:
        state, progress = checkpoints.restore(target)
    assert progress == {'next_index': 30}
    assert_same(state, state_of()._replace(step=jax.numpy.int32(30)))


def test_the_newest_few_are_kept(saved):
    assert latest_step(saved) == 30
    assert sorted(int(path.name) for path in saved.iterdir()) == [20, 30]
    assert latest_step(saved / 'nothing') is None


def test_parameters_and_averages_load_alone(saved):
    for rate in (0.0, 0.9, 0.99):
        params, step = load_params(saved, UNET, rate)
        assert step == 30
        assert_same(params, state_of().params)


def test_how_a_network_is_computed_may_change(saved):
    config = dataclasses.replace(UNET, dtype='bfloat16', remat=True, dropout=0.5)
    assert_same(load_params(saved, config)[0], state_of().params)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'config': dataclasses.replace(UNET, model_channels=64)}, 'model_channels is 32 there and 64'),
        ({'config': dataclasses.replace(UNET, qkv_order='new')}, 'qkv_order is legacy there and new'),
        ({'config': CLASSIFIER}, 'kind is UNetConfig there and ClassifierConfig'),
        ({'ema_rate': 0.5}, 'has no ema_0.5; it holds ema_0.9, ema_0.99, params'),
    ],
)
def test_foreign_checkpoints_are_refused(saved, change, message):
    with pytest.raises(UserError, match=message):
        load_params(saved, **({'config': UNET} | change))


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(UserError, match='no checkpoint there'):
        load_params(tmp_path / 'nowhere', UNET)
