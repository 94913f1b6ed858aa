import dataclasses
import errno
import functools
import logging
import os
import re
import shutil
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion_jax import models
from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.sharding import make_mesh, param_shardings
from diffusion_jax.training.checkpoints import describe_network, latest_step, load_params, read_end
from diffusion_jax.training.digest import digest
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import init_state
from tests.tiny import CLASSIFIER, TRAIN, UNET

CONFIG = dataclasses.replace(TRAIN, timestep_sampler='loss_second_moment')


@functools.cache
def state_of():
    params = jax.jit(models.init, static_argnums=0)(UNET, jax.random.key(0))
    return init_state(params, CONFIG, 100, jax.random.key(7))


@functools.cache
def small_state():
    """Of no network: what is saved need not be one, and every array that is looked at costs time."""
    kernel = jax.random.normal(jax.random.key(0), (16, 512))
    return init_state({'kernel': kernel, 'bias': kernel[0, :7]}, CONFIG, 100, jax.random.key(7))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def save(checkpoints, state, step):
    checkpoints.save(state._replace(step=np.int32(step)), {'next_index': step}, describe_network(UNET))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp('checkpoints')
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (10, 20, 30):
            save(checkpoints, state_of(), step)
    return directory


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    directory = tmp_path_factory.mktemp('small')
    with Checkpoints(directory) as checkpoints:
        for step in (20, 30):
            save(checkpoints, small_state(), step)
    return directory


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / 'copy')


def mesh_of(num_devices):
    return make_mesh(1, num_devices, devices=jax.devices()[:num_devices])


def abstract(mesh=None):
    state = small_state()
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        param_shardings(mesh or mesh_of(1), state),
    )


@pytest.mark.parametrize('written_on', [1, 8])
def test_everything_comes_back_on_any_number_of_devices(tmp_path, written_on):
    with Checkpoints(tmp_path) as checkpoints:
        state = small_state()
        save(checkpoints, jax.device_put(state, param_shardings(mesh_of(written_on), state)), 30)
    for mesh in (mesh_of(1), mesh_of(2), mesh_of(4), make_mesh(2, 4)):
        with Checkpoints(tmp_path) as checkpoints:
            state, progress = checkpoints.restore(abstract(mesh))
        assert progress == {'next_index': 30}
        kernel = state.params['kernel']
        assert kernel.addressable_shards[0].data.size == kernel.size / mesh.shape['fsdp']
        assert_same(state, small_state()._replace(step=jax.numpy.int32(30)))


def test_the_newest_few_are_kept(saved):
    assert latest_step(saved) == 30
    assert sorted(int(path.name) for path in saved.iterdir()) == [20, 30]
    assert latest_step(saved / 'nothing') is None


def test_parameters_and_averages_load_alone(saved):
    for rate in (0.0, 0.9, 0.99):
        params, step = load_params(saved, UNET, rate)
        assert step == 30
        assert_same(params, state_of().params)


def test_parameters_load_as_they_are_trained(saved):
    """Split over the devices of a mesh where training splits them."""
    mesh = mesh_of(8)
    params, _ = load_params(saved, UNET, mesh=mesh)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == param_shardings(mesh, params)
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(params))
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


def flip(path):
    content = bytearray(path.read_bytes())
    for place in (len(content) // 3, len(content) // 2):
        content[place] ^= 0x40
    path.write_bytes(content)


def largest(folder):
    return max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_number(path):
    """Valid JSON, another number."""
    path.write_text(path.read_text().replace('30', '31'))


# What may befall a checkpoint, and whether parameters are among what it hits.
DAMAGE = {
    'bits flipped in the parameters': lambda folder: flip(largest(folder / 'params')),
    'bits flipped in the optimizer': lambda folder: flip(largest(folder / 'training')),
    'a number flipped in the progress': lambda folder: flip_a_number(folder / 'progress' / 'metadata'),
    'a file cut short': lambda folder: os.truncate(largest(folder / 'ema_0.9'), 100),
    'a file missing': lambda folder: (folder / 'params' / 'manifest.ocdbt').unlink(),
    'an item missing': lambda folder: shutil.rmtree(folder / 'digests'),
    'all files missing': lambda folder: [path.unlink() for path in folder.rglob('*') if path.is_file()],
    'an empty folder': lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    'garbage as metadata': lambda folder: (folder / 'training' / '_METADATA').write_text('garbage'),
}


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith('diffusion_jax')]


@pytest.fixture
def heard(monkeypatch):
    """Our messages go to pytest too, whatever a program that ran before has set up."""
    monkeypatch.setattr(logging.getLogger('diffusion_jax'), 'propagate', True)


@pytest.mark.parametrize('damage', DAMAGE)
def test_training_goes_on_from_the_newest_whole_checkpoint(copy, damage, caplog, heard):
    DAMAGE[damage](copy / '30')
    files = sorted(path.name for path in (copy / '30').rglob('*'))
    with Checkpoints(copy) as checkpoints:
        state, progress = checkpoints.restore(abstract())
        assert progress == {'next_index': 20} and int(state.step) == 20 == checkpoints.latest_step
        assert_same(state, small_state()._replace(step=jax.numpy.int32(20)))
        (line,) = said(caplog)
        assert re.search(r'copy/30: damaged \(.+\); moved to damaged/30, training goes on from step 20', line)
        save(checkpoints, state, 30)
    assert sorted(path.name for path in (copy / 'damaged' / '30').rglob('*')) == files
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.restore(abstract())[1] == {'next_index': 30}
    assert len(said(caplog)) == 1


def test_where_no_checkpoint_is_whole_nothing_is_moved(copy):
    for step in ('20', '30'):
        flip(largest(copy / step / 'params'))
    with Checkpoints(copy) as checkpoints:
        with pytest.raises(UserError, match=r'no checkpoint is whole \(step 30: .*; step 20: .*\)'):
            checkpoints.restore(abstract())
    assert sorted(path.name for path in copy.iterdir()) == ['20', '30']


def raising(error):
    def restore(*args, **kwargs):
        raise error

    return restore


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.EIO, 'Input/output error'),
        PermissionError(errno.EACCES, 'Permission denied'),
        OSError(errno.ESTALE, 'Stale file handle'),
        MemoryError('Unable to allocate 3 GiB'),
        ValueError('UNKNOWN: Error reading local file: Input/output error'),
        jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate'),
    ],
)
def test_what_cannot_be_read_now_is_not_damaged(copy, error, monkeypatch):
    monkeypatch.setattr(ocp.CheckpointManager, 'restore', raising(error))
    with Checkpoints(copy) as checkpoints, pytest.raises(UserError) as raised:
        checkpoints.restore(abstract())
    reason = re.escape(str(error).splitlines()[0])
    assert re.search(rf'copy/30: cannot be read \({reason}\).*; nothing was moved', str(raised.value))
    assert sorted(path.name for path in copy.iterdir()) == ['20', '30']


def test_a_file_that_the_file_system_refuses_is_not_damaged(copy):
    path = largest(copy / '30' / 'params')
    path.unlink()
    path.symlink_to(path.name)
    with (
        Checkpoints(copy) as checkpoints,
        pytest.raises(UserError, match='symbolic links.*nothing was moved'),
    ):
        checkpoints.restore(abstract())
    assert sorted(path.name for path in copy.iterdir()) == ['20', '30']


def test_damaged_twice_both_are_kept(copy):
    shutil.copytree(copy / '30', copy / 'damaged' / '30')
    flip(largest(copy / '30' / 'params'))
    with Checkpoints(copy) as checkpoints:
        checkpoints.restore(abstract())
    assert sorted(path.name for path in (copy / 'damaged').iterdir()) == ['30', '30-2']


@pytest.mark.parametrize('damage', ['bits flipped in the parameters', 'a file missing', 'an empty folder'])
def test_readers_refuse_a_damaged_checkpoint_and_move_nothing(saved, tmp_path, damage):
    shutil.copytree(saved, tmp_path / 'copy')
    DAMAGE[damage](tmp_path / 'copy' / '30')
    with pytest.raises(UserError, match=r'copy/30: damaged \(.*run its training again, .* move this folder'):
        load_params(tmp_path / 'copy', UNET)
    assert sorted(path.name for path in (tmp_path / 'copy').iterdir()) == ['20', '30']
    mesh = mesh_of(1)
    assert read_end(tmp_path / 'copy', UNET, 30, (0.9,), mesh) is None


def test_a_training_is_complete_with_its_last_step_and_averages(saved):
    mesh = mesh_of(1)
    assert read_end(saved, UNET, 30, (0.9,), mesh)[0] == 30
    assert read_end(saved, UNET, 30, (0.5,), mesh) is None
    assert read_end(saved, UNET, 31, (), mesh) is None


def test_what_is_not_read_may_be_damaged(saved, tmp_path):
    shutil.copytree(saved, tmp_path / 'copy')
    flip(largest(tmp_path / 'copy' / '30' / 'params'))
    assert_same(load_params(tmp_path / 'copy', UNET, 0.9)[0], state_of().params)


def test_half_written_checkpoints_are_removed_when_training_goes_on(copy):
    (copy / '35.orbax-checkpoint-tmp' / 'params.orbax-checkpoint-tmp').mkdir(parents=True)
    assert latest_step(copy) == 30
    with Checkpoints(copy):
        assert sorted(path.name for path in copy.iterdir()) == ['20', '30']


def no_room(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')


def fail_at_once(patch):
    patch.setattr(ocp.CheckpointManager, 'save', no_room)


def fail_in_the_background(patch):
    """The write has begun when the disk becomes full: its folder is there, half-written."""
    patch.setattr(ocp.AsyncCheckpointer, 'wait_until_finished', no_room)


@pytest.mark.parametrize('fail', [fail_at_once, fail_in_the_background])
def test_a_full_disk_is_said_and_training_goes_on(copy, fail, monkeypatch, caplog, capfd, heard):
    with Checkpoints(copy, keep=2) as checkpoints:
        with monkeypatch.context() as patch:
            fail(patch)
            save(checkpoints, small_state(), 40)
            for _ in range(200):
                checkpoints.look_after()
                if said(caplog):
                    break
                time.sleep(0.05)
        reason = 'step 40 could not be saved (no space left on the device)'
        assert said(caplog) == [f'{copy}: {reason}; training goes on, the newest is step 30']
        assert sorted(path.name for path in copy.iterdir()) == ['20', '30']
        save(checkpoints, small_state(), 50)
    assert sorted(path.name for path in copy.iterdir()) == ['30', '50']
    assert len(said(caplog)) == 1 and capfd.readouterr() == ('', '')


@pytest.mark.parametrize('stopped', [False, True])
def test_a_last_write_that_fails_is_an_error(copy, stopped, monkeypatch):
    fail_in_the_background(monkeypatch)
    with pytest.raises(UserError, match=r'copy: step 40 could not be saved .* to go on from step 30'):
        with Checkpoints(copy) as checkpoints:
            save(checkpoints, small_state(), 40)
            if stopped:
                raise Interrupted('stopped at step 40, which is saved')


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
    for changed in (swapped, -tree['a'], tree['a'].at[3, 4].multiply(-1).at[50, 60].multiply(-1)):
        assert digest(tree | {'a': changed})["['a']"] != digest(tree)["['a']"]
