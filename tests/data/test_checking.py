"""Unreadable images and labels that are no class are found before the first stage."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import checking
from diffusion_jax.data.checking import check_images
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import make_source
from diffusion_jax.interruption import Interrupted
from tests.errors import refused


@pytest.fixture
def folder(tmp_path):
    """Ten images; files 3, 4 and 9 are damaged."""
    for i in range(10):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f'{i}.png')
    for i in (3, 4, 9):
        (tmp_path / f'{i}.png').write_bytes((tmp_path / f'{i}.png').read_bytes()[:50])
    return tmp_path


def check(folder, stop=lambda: False, **settings):
    settings = {'train_split': '', 'labels': 'none', 'num_classes': 1, 'on_error': 'skip'} | settings
    config = DataConfig('folder', path=str(folder), **settings)
    check_images(make_source(config, 'train'), config, 'train', stop)


def test_few_files_are_all_read_before_anything_else(folder, caplog):
    with refused('config.data', '3 of the 10 train', '3.png', '4.png', '9.png', 'config.data.on_error=skip'):
        check(folder, on_error='stop')
    check(folder)
    check(folder, max_skipped=3)
    assert '3 of the 10 train' in caplog.text
    with refused('config.data.max_skipped', '2', '3 of the 10 train'):
        check(folder, max_skipped=2)
    (folder / '5.png').write_bytes(b'')
    with refused('config.data', '4 of the 10 train', '…'):
        check(folder, on_error='stop')


@pytest.mark.parametrize(('limit', 'value'), [('FEW_FILES', 9), ('FEW_BYTES', 500)])
def test_many_files_are_read_on_request(folder, monkeypatch, limit, value):
    monkeypatch.setattr(checking, limit, value)
    monkeypatch.setattr(checking, 'CHUNK', 4)
    check(folder, on_error='stop')
    (folder / '0.png').write_bytes(b'')
    with refused('config.data', '1 of the 10', '0.png'):
        check(folder, on_error='stop')
    with refused('config.data', '4 of the 10'):
        check(folder, on_error='stop', check_files=True)
    answers = iter([False, True])
    with pytest.raises(Interrupted, match='4 of 10'):
        check(folder, check_files=True, stop=lambda: next(answers))
