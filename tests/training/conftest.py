"""Checkpoints that all tests of them read; those that change one take a copy."""

import shutil

import pytest

from diffusion_jax.training.saving import Checkpoints
from tests.training.states import save, small_state, state_of


@pytest.fixture(scope='session')
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp('checkpoints')
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (10, 20, 30):
            save(checkpoints, state_of(), step)
    return directory


@pytest.fixture(scope='session')
def small(tmp_path_factory):
    directory = tmp_path_factory.mktemp('small')
    with Checkpoints(directory) as checkpoints:
        for step in (20, 30):
            save(checkpoints, small_state(), step)
    return directory


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / 'copy')
