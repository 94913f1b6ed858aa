import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.errors import UserError
from diffusion_jax.sharding import make_mesh, param_shardings
from diffusion_jax.training.checkpoints import Checkpoints, describe_network, latest_step, load_params
from diffusion_jax.training.digest import digest
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


def test_flipped_bits_are_found(saved, tmp_path):
    shutil.copytree(saved, tmp_path / 'damaged')
    data = max((tmp_path / 'damaged' / '30' / 'params').rglob('*'), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    for place in (len(content) // 3, len(content) // 2):
        content[place] ^= 0x40
    data.write_bytes(content)
    with pytest.raises(UserError, match=r'damaged/30.*remove this folder'):
        load_params(tmp_path / 'damaged', UNET)
    load_params(tmp_path / 'damaged', UNET, 0.9)


def test_a_checkpoint_that_is_not_whole_is_named(saved, tmp_path):
    shutil.copytree(saved, tmp_path / 'copy')
    (tmp_path / 'copy' / '40').mkdir()
    with pytest.raises(UserError, match='copy/40: not a whole checkpoint'):
        latest_step(tmp_path / 'copy')
    shutil.rmtree(tmp_path / 'copy' / '40')
    shutil.rmtree(tmp_path / 'copy' / '30' / 'params' / 'd', ignore_errors=True)
    (tmp_path / 'copy' / '30' / 'params' / 'manifest.ocdbt').unlink()
    with pytest.raises(UserError, match='copy/30: cannot be read'):
        load_params(tmp_path / 'copy', UNET)


def test_digests_see_every_bit_and_no_sharding():
    tree = {
        'a': jax.random.normal(jax.random.key(0), (64, 128)),
        'b': jax.numpy.arange(7),
        'key': jax.random.key(3),
    }
    mesh = make_mesh(2, 4)
    spread = jax.device_put(tree, param_shardings(mesh, tree))
    assert digest(spread) == digest(tree)
    bits = np.array(tree['a']).view(np.uint32)
    for bit in (0, 13, 31):
        bits[17, 5] ^= np.uint32(1 << bit)
        assert digest(tree | {'a': bits.view(np.float32)})["['a']"] != digest(tree)["['a']"]
        bits[17, 5] ^= np.uint32(1 << bit)
    swapped = tree['a'].at[jax.numpy.asarray([0, 1])].set(tree['a'][jax.numpy.asarray([1, 0])])
    assert digest(tree | {'a': swapped})["['a']"] != digest(tree)["['a']"]
