import dataclasses
import errno
import shutil
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.sharding import make_mesh, param_shardings
from diffusion_jax.training import saving
from diffusion_jax.training.checkpoints import latest_step, load_params, read_end
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


@pytest.mark.parametrize('rate', [0.0, 0.9])
def test_parameters_that_are_not_finite_are_refused_by_name(rate, tmp_path):
    state = state_of()
    bad = state.params | {'conv_out': state.params['conv_out'] | {'bias': np.float32([np.nan, 0])}}
    changed = {'ema': state.ema | {'0.9': bad}} if rate else {'params': bad}
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, state._replace(**changed), 10)
    with pytest.raises(UserError, match=r'/10: conv_out/bias of (params|ema_0.9) is not finite'):
        load_params(tmp_path, UNET, rate)
    assert load_params(tmp_path, UNET, 0.9 - rate)[1] == 10


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(UserError, match='no checkpoint there'):
        load_params(tmp_path / 'nowhere', UNET)


def test_a_training_is_complete_with_its_last_step_and_averages(saved):
    mesh = mesh_of(1)
    assert read_end(saved, UNET, 30, (0.9,), mesh)[0] == 30
    assert read_end(saved, UNET, 30, (0.5,), mesh) is None
    assert read_end(saved, UNET, 31, (), mesh) is None


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
def test_a_full_disk_is_said_and_training_goes_on(copy, fail, monkeypatch, caplog, capfd):
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


def test_a_write_after_which_an_older_checkpoint_cannot_be_removed_is_a_write(copy, monkeypatch, caplog):
    """Files that another program holds open on NFS keep a folder from going away."""

    rmtree = shutil.rmtree

    def remove(path, *args, **kwargs):
        if '/20' in str(path):
            raise OSError(errno.ENOTEMPTY, 'Directory not empty')
        rmtree(path, *args, **kwargs)

    with Checkpoints(copy, keep=2) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, 'rmtree', remove)
            save(checkpoints, small_state(), 40)
            save(checkpoints, small_state(), 50)
        (line,) = said(caplog)
        assert line.startswith(f'{copy}: step 40 is saved') and 'Directory not empty' in line
    assert latest_step(copy) == 50


def lose_the_manifest(folder):
    (folder / 'ema_0.9' / 'manifest.ocdbt').unlink()


def lose_the_arrays(folder):
    for path in folder.glob('params/ocdbt.process_*'):
        shutil.rmtree(path)


def lose_an_item(folder):
    shutil.rmtree(folder / 'params')


def change_the_progress(folder):
    (folder / 'progress' / 'metadata').write_text('{"next_index": 1}')


@pytest.mark.parametrize(
    'harm', [lose_the_manifest, lose_the_arrays, lose_an_item, change_the_progress], ids=lambda f: f.__name__
)
def test_what_cannot_be_read_after_it_was_written_replaces_nothing(harm, copy, monkeypatch, caplog):
    wait = ocp.CheckpointManager.wait_until_finished

    def wait_and_harm(manager):
        wait(manager)
        if (copy / '40').exists():
            harm(copy / '40')

    monkeypatch.setattr(ocp.CheckpointManager, 'wait_until_finished', wait_and_harm)
    with Checkpoints(copy, keep=1) as checkpoints:
        save(checkpoints, small_state(), 40)
        save(checkpoints, small_state(), 50)
        (line,) = said(caplog)
        assert 'step 40 could not be saved' in line and 'the newest is step 30' in line
        assert sorted(path.name for path in copy.iterdir() if path.name.isdecimal())[:2] == ['20', '30']
    assert sorted(path.name for path in copy.iterdir()) == ['50', 'damaged']
    assert (copy / 'damaged' / '40').is_dir()
    with pytest.raises(UserError, match='step 40 could not be saved .* go on from step 30'):
        (copy / '50').rename(copy / '30')
        with Checkpoints(copy, keep=1) as checkpoints:
            save(checkpoints, small_state(), 40)
    assert sorted(path.name for path in copy.iterdir()) == ['30', 'damaged']


def test_a_checkpoint_that_cannot_be_checked_is_kept_and_replaces_nothing(copy, monkeypatch, caplog):
    """Such as on a device with too little memory for one more array."""

    def no_memory(*_):
        raise UserError('out of memory')

    monkeypatch.setattr(saving, 'check_written', no_memory)
    with Checkpoints(copy, keep=1) as checkpoints:
        save(checkpoints, small_state(), 40)
        save(checkpoints, small_state(), 50)
    assert sorted(path.name for path in copy.iterdir()) == ['20', '30', '40', '50']
    assert len(said(caplog)) == 2 and 'out of memory' in said(caplog)[0]


def test_a_step_that_is_put_off_is_said_and_an_error_where_it_is_the_last(copy, caplog):
    with pytest.raises(UserError, match=r'step 50 could not be saved \(no log\); .* to go on from step 40'):
        with Checkpoints(copy) as checkpoints:
            checkpoints.put_off(35, 'no log')
            assert said(caplog) == [
                f'{copy}: step 35 could not be saved (no log); training goes on, the newest is step 30'
            ]
            save(checkpoints, small_state(), 40)
            checkpoints.put_off(50, 'no log')
