"""Checkpoints that cannot be read: because they are damaged, or for now."""

import errno
import json
import os
import re
import shutil

import jax
import orbax.checkpoint as ocp
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.training.checkpoints import DamagedCheckpoint, load_params
from diffusion_jax.training.saving import Checkpoints
from tests.tiny import UNET
from tests.training.states import abstract, assert_same, said, save, small_state, state_of


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


def remove_a_digest(folder):
    path = folder / 'digests' / 'metadata'
    digests = json.loads(path.read_text())
    del digests['params']["['bias']"]
    path.write_text(json.dumps(digests))


# How a checkpoint may be damaged.
DAMAGE = {
    'a digest missing': remove_a_digest,
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


@pytest.mark.parametrize('damage', DAMAGE)
def test_training_resumes_from_the_newest_intact_checkpoint(copy, damage, caplog):
    DAMAGE[damage](copy / '30')
    files = sorted(path.name for path in (copy / '30').rglob('*'))
    with Checkpoints(copy) as checkpoints:
        state, progress = checkpoints.restore(abstract())
        assert progress == {'next_index': 20} and int(state.step) == 20 == checkpoints.latest_step
        assert_same(state, small_state()._replace(step=jax.numpy.int32(20)))
        (line,) = said(caplog)
        assert re.search(r'copy/30: damaged \(.+\); moved to damaged/30, resuming from step 20', line)
        save(checkpoints, state, 30)
    assert sorted(path.name for path in (copy / 'damaged' / '30').rglob('*')) == files
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.restore(abstract())[1] == {'next_index': 30}
    assert len(said(caplog)) == 1


def test_without_an_intact_checkpoint_nothing_is_moved(copy):
    for step in ('20', '30'):
        flip(largest(copy / step / 'params'))
    with Checkpoints(copy) as checkpoints:
        with pytest.raises(UserError) as error:
            checkpoints.restore(abstract())
    assert error.value.where == str(copy) and re.search('step 30: .*; step 20: ', error.value.problem)
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
    monkeypatch.setattr(ocp.Checkpointer, 'restore', raising(error))
    with Checkpoints(copy) as checkpoints, pytest.raises(UserError) as raised:
        checkpoints.restore(abstract())
    assert raised.value.where == str(copy / '30')
    assert str(error.args[-1]) in raised.value.problem and 'not moved' in raised.value.remedy
    assert sorted(path.name for path in copy.iterdir()) == ['20', '30']


def test_a_file_that_the_file_system_refuses_is_not_damaged(copy):
    path = largest(copy / '30' / 'params')
    path.unlink()
    path.symlink_to(path.name)
    with Checkpoints(copy) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore(abstract())
    assert 'symbolic links' in error.value.problem
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
    with pytest.raises(DamagedCheckpoint) as error:
        load_params(tmp_path / 'copy', UNET)
    assert error.value.where == str(tmp_path / 'copy' / '30')
    assert sorted(path.name for path in (tmp_path / 'copy').iterdir()) == ['20', '30']


def test_what_is_not_read_may_be_damaged(saved, tmp_path):
    shutil.copytree(saved, tmp_path / 'copy')
    flip(largest(tmp_path / 'copy' / '30' / 'params'))
    assert_same(load_params(tmp_path / 'copy', UNET, 0.9)[0], state_of().ema['0.9'])
