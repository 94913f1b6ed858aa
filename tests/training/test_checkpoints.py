import dataclasses
import errno
import resource
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.sharding import make_mesh, param_shardings
from diffusion_jax.training.checkpoints import latest_step, load_params
from diffusion_jax.training.saving import Checkpoints
from tests.tiny import CLASSIFIER, UNET
from tests.training.states import abstract, assert_same, mesh_of, said, save, small_state, state_of


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
        assert_same(params, state_of().ema[str(rate)] if rate else state_of().params)


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
    ('change', 'values'),
    [
        ({'config': dataclasses.replace(UNET, model_channels=64)}, ['model_channels', '32', '64']),
        ({'config': dataclasses.replace(UNET, qkv_order='new')}, ['qkv_order', 'legacy', 'new']),
        ({'config': CLASSIFIER}, ['UNetConfig', 'ClassifierConfig']),
        ({'ema_rate': 0.5}, ['ema_0.5', 'ema_0.9, ema_0.99, params']),
    ],
)
def test_checkpoints_of_another_network_are_refused(saved, change, values):
    with pytest.raises(UserError) as error:
        load_params(saved, **({'config': UNET} | change))
    assert error.value.where == str(saved / '30')
    assert all(value in error.value.problem for value in values)


@pytest.mark.parametrize('rate', [0.0, 0.9])
def test_parameters_that_are_not_finite_are_refused_by_name(rate, tmp_path):
    state = state_of()
    bad = state.params | {'conv_out': state.params['conv_out'] | {'bias': np.float32([np.nan, 0])}}
    changed = {'ema': state.ema | {'0.9': bad}} if rate else {'params': bad}
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, state._replace(**changed), 10)
    with pytest.raises(UserError) as error:
        load_params(tmp_path, UNET, rate)
    assert error.value.where == str(tmp_path / '10')
    assert f'conv_out/bias of {"ema_0.9" if rate else "params"}' in error.value.problem
    assert load_params(tmp_path, UNET, 0.9 - rate)[1] == 10


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(UserError) as error:
        load_params(tmp_path / 'nowhere', UNET)
    assert error.value.where == str(tmp_path / 'nowhere')


def test_partial_checkpoints_are_removed(copy):
    (copy / '35.orbax-checkpoint-tmp' / 'params.orbax-checkpoint-tmp').mkdir(parents=True)
    assert latest_step(copy) == 30
    with Checkpoints(copy):
        assert sorted(path.name for path in copy.iterdir()) == ['20', '30']


def no_room(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')


def fail_at_once(patch):
    patch.setattr(ocp.AsyncCheckpointer, 'save', no_room)


def fail_in_the_background(patch):
    """The write has begun when the disk becomes full: its partial folder exists."""
    patch.setattr(ocp.AsyncCheckpointer, 'wait_until_finished', no_room)


@pytest.mark.parametrize('fail', [fail_at_once, fail_in_the_background])
def test_a_full_disk_is_reported_once_and_training_continues(copy, fail, monkeypatch, caplog):
    with Checkpoints(copy, keep=2) as checkpoints:
        with monkeypatch.context() as patch:
            fail(patch)
            save(checkpoints, small_state(), 40)
            for _ in range(200):
                checkpoints.poll()
                if said(caplog):
                    break
                time.sleep(0.05)
        (line,) = said(caplog)
        assert line.startswith(f'{copy}: step 40 could not be saved (No space left on device);')
        assert line.endswith('step 30')
        assert sorted(path.name for path in copy.iterdir()) == ['20', '30']
        save(checkpoints, small_state(), 50)
    assert sorted(path.name for path in copy.iterdir()) == ['30', '50']
    assert len(said(caplog)) == 1


@pytest.fixture
def small_files():
    """Files may have 2,000 bytes, so that Orbax and TensorStore fail by themselves."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_inside_tensorstore_is_one_line(small_files, tmp_path, caplog, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, small_state(), 40)
        checkpoints.poll(wait=True)
        small_files()
        (line,) = said(caplog)
        assert 'step 40 could not be saved (' in line and 'File too large' in line
        assert list(tmp_path.iterdir()) == []
        save(checkpoints, small_state(), 50)
    assert latest_step(tmp_path) == 50


@pytest.mark.parametrize('stopped', [False, True])
def test_a_last_write_that_fails_is_an_error(copy, stopped, monkeypatch):
    with pytest.raises(UserError) as error:
        with Checkpoints(copy) as checkpoints:
            monkeypatch.setattr(checkpoints._checkpointer, 'wait_until_finished', no_room)
            save(checkpoints, small_state(), 40)
            monkeypatch.undo()
            if stopped:
                raise Interrupted('stopped at step 40, which is saved')
    assert error.value.where == str(copy)
    assert 'step 40 could not be saved' in error.value.problem and 'step 30' in error.value.remedy


def test_a_last_write_that_fails_before_another_error_is_logged(small_files, tmp_path, caplog):
    with pytest.raises(UserError, match='broken'), Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, small_state(), 40)
        raise UserError('a.png', 'is broken')
    small_files()
    (line,) = said(caplog)
    assert 'step 40 could not be saved' in line and line.endswith('none yet')


def test_a_folder_that_cannot_be_removed_is_no_checkpoint(copy, monkeypatch, caplog):
    """Files that another program holds open on NFS keep a folder from being removed."""
    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, 'rmtree', lambda path, **options: '/20' in str(path) or rmtree(path))
    with Checkpoints(copy, keep=2) as checkpoints:
        save(checkpoints, small_state(), 40)
        save(checkpoints, small_state(), 50)
    assert sorted(path.name for path in copy.iterdir()) == ['20.orbax-checkpoint-tmp', '40', '50']
    assert said(caplog) == []


def test_a_checkpoint_that_cannot_be_replaced_is_reported_and_kept(copy, caplog):
    """As where a folder of the new name is left on NFS."""
    with Checkpoints(copy, keep=2) as checkpoints:
        (copy / '20.orbax-checkpoint-tmp' / 'held').mkdir(parents=True)
        save(checkpoints, small_state(), 40)
        checkpoints.poll(wait=True)
    assert {'20', '40'} <= {path.name for path in copy.iterdir()}
    (message,) = said(caplog)
    assert '20' in message and 'cannot be removed' in message
