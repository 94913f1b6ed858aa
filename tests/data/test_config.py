"""Settings that cannot work are refused by name."""

import pytest

from diffusion_jax.data.config import DataConfig, check_data
from tests.errors import refused


@pytest.mark.parametrize(
    'config',
    [
        DataConfig('digits'),
        DataConfig('folder', path='images', labels='prefix', image_size=(32, 48), image_channels=3),
        DataConfig('tfds', tfds_name='cifar10', image_size=(32, 32), image_channels=3, num_workers=2),
        DataConfig('digits', low_res_size=(4, 7)),
        DataConfig('folder', path='images', on_error='skip', max_skipped=0, check_files=True),
    ],
)
def test_sound_settings_pass(config):
    check_data(config)


@pytest.mark.parametrize(
    ('config', 'key', 'values'),
    [
        (DataConfig('mnist'), 'name', ['mnist', 'digits', 'folder', 'tfds']),
        (DataConfig('folder', path='x', labels='suffix'), 'labels', ['suffix', 'folder', 'prefix', 'none']),
        (DataConfig('folder', path='x', image_channels=4), 'image_channels', ['4', '1, 3']),
        (DataConfig('folder', path='x', image_size=(0, 8)), 'image_size', ['0', '1']),
        (DataConfig('digits', low_res_size=(4, 8)), 'low_res_size', ['8', '1']),
        (DataConfig('digits', low_res_size=(0, 4)), 'low_res_size', ['0']),
        (DataConfig('folder', path='x', num_workers=-1), 'num_workers', ['-1', '0']),
        (DataConfig('folder', path='x', num_classes=0), 'num_classes', ['0', '1']),
        (DataConfig('folder'), 'path', []),
        (DataConfig('tfds'), 'tfds_name', ['cifar10']),
        (DataConfig('digits', image_size=(16, 16)), 'image_size', ['(16, 16)', '(8, 8)']),
        (DataConfig('digits', image_channels=3), 'image_channels', ['3', '1']),
        (DataConfig('digits', num_classes=9), 'num_classes', ['9', '10']),
        (DataConfig('folder', path='x', on_error='ignore'), 'on_error', ['ignore', 'stop', 'skip']),
        (DataConfig('folder', path='x', max_skipped=-1), 'max_skipped', ['-1', '0']),
    ],
)
def test_settings_that_cannot_work_are_named(config, key, values):
    with refused(key, *values):
        check_data(config)
