"""Folders of any name: checkpoints come back from them, or the name is refused before anything is written."""

import os
import shutil

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.training.checkpoints import check_path, read
from diffusion_jax.training.saving import Checkpoints
from tests.training.states import abstract, save, small_state

NOT_UTF8 = os.fsdecode(b'caf\xe9')


@pytest.mark.parametrize('name', ['[x]', 'a[b', '*', 'a?', '**', 'back\\slash', '\\', 'bugs:', NOT_UTF8])
def test_a_path_that_checkpoints_would_be_lost_in_is_refused_before_it_is_made(name, tmp_path):
    folder = tmp_path / name / 'checkpoints'
    with pytest.raises(UserError) as error:
        Checkpoints(folder)
    assert error.value.where == repr(str(folder)) and 'symbolic link' in error.value.remedy
    assert not folder.exists()


@pytest.mark.parametrize('name', [']', '%41 {a,b}~$HOME#', 'new\nline', '\'"', '日本 é', 'dot.', 'x' * 255])
def test_other_paths_take_checkpoints(name, tmp_path):
    with Checkpoints(tmp_path / name) as checkpoints:
        save(checkpoints, small_state(), 10)
    with Checkpoints(tmp_path / name) as checkpoints:
        assert checkpoints.restore(abstract())[1] == {'next_index': 10}


def test_checkpoints_that_were_moved_are_read_where_none_could_be_written(small, tmp_path):
    for name in ('[x]', 'a*', 'a?'):
        folder = shutil.copytree(small, tmp_path / name)
        assert read(folder, 30, {'params': abstract().params}, ('progress',))[1]['progress']
        with pytest.raises(UserError):
            Checkpoints(folder)
        assert sorted(path.name for path in folder.iterdir()) == ['20', '30']


@pytest.mark.parametrize('name', ['a\\b', 'a**', 'gs:', NOT_UTF8])
def test_a_path_that_cannot_be_read_from_is_no_damage(name, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / name / 'checkpoints')
    with pytest.raises(UserError) as error:
        read(folder, 30, {}, ('progress',))
    assert type(error.value) is UserError and error.value.where == repr(str(folder))


def test_a_symbolic_link_serves(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / '[x]')
    (tmp_path / 'link').symlink_to(folder)
    check_path(tmp_path / 'link', write=True)
    with Checkpoints(tmp_path / 'link') as checkpoints:
        save(checkpoints, small_state(), 40)
    assert read(folder, 40, {}, ('progress',))[1]['progress'] == {'next_index': 40}
