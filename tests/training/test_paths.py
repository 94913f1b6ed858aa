"""Folders of any name: checkpoints come back from them, or the name is refused before anything is written."""

import shutil

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.training.checkpoints import read
from diffusion_jax.training.saving import Checkpoints
from tests.training.states import abstract, save, small_state


@pytest.mark.parametrize('name', ['[x]', 'a[b', '*', 'a?', '**', 'back\\slash', '\\', 'bugs:'])
def test_a_path_that_checkpoints_would_be_lost_in_is_refused_before_it_is_made(name, tmp_path):
    folder = tmp_path / name / 'checkpoints'
    with pytest.raises(UserError) as error:
        Checkpoints(folder)
    assert error.value.where == str(folder) and 'symbolic link' in error.value.remedy
    assert not folder.exists()


@pytest.mark.parametrize('name', [']', '%41 {a,b}~$HOME#', 'new\nline', '\'"', '日本 é', 'dot.', 'x' * 255])
def test_other_paths_take_checkpoints(name, tmp_path):
    with Checkpoints(tmp_path / name) as checkpoints:
        save(checkpoints, small_state(), 10)
    with Checkpoints(tmp_path / name) as checkpoints:
        assert checkpoints.restore(abstract())[1] == {'next_index': 10}


@pytest.mark.parametrize('name', ['a\\b', 'a*', '[x]', 'gs:'])
def test_a_path_that_cannot_be_read_from_is_no_damage(name, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / name / 'checkpoints')
    with pytest.raises(UserError) as error:
        read(folder, 30, {}, ('progress',))
    assert type(error.value) is UserError and error.value.where == str(folder)


def test_a_symbolic_link_can_be_used(small, tmp_path):
    shutil.copytree(small, tmp_path / '[x]')
    (tmp_path / 'link').symlink_to(tmp_path / '[x]')
    with Checkpoints(tmp_path / 'link') as checkpoints:
        save(checkpoints, small_state(), 40)
    assert read(tmp_path / 'link', 40, {}, ('progress',))[1]['progress'] == {'next_index': 40}
    assert (tmp_path / '[x]' / '40').is_dir()
