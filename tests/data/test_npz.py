"""The authors' npz as a source of training images."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.wrappers import cached
from tests.errors import refused

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)


def source_of(path, split='train', **settings):
    settings = {'image_channels': 3} | settings
    return make_source(DataConfig('auto', path=str(path), **settings), split)


def write(path, *arrays, save=np.savez):
    save(path, *arrays)
    return path


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_images_are_mapped_where_they_are_not_compressed(tmp_path, save):
    source = source_of(write(tmp_path / 'x.npz', PIXELS, np.array([2, 0, 1, 2]), save=save))
    assert isinstance(source.images, np.memmap) == (save is np.savez)
    assert source.class_names == ('0', '1', '2') and source.labels.tolist() == [2, 0, 1, 2]
    np.testing.assert_array_equal([source[i]['image'] for i in range(4)], PIXELS)
    assert [source[i]['label'] for i in range(4)] == [2, 0, 1, 2]


def test_classes_are_the_labels_that_occur_or_as_many_as_the_config_has(tmp_path):
    path = write(tmp_path / 'x.npz', PIXELS, np.array([250, 207, 207, 250]))
    assert source_of(path).class_names == source_of(path, num_classes=2).class_names == ('207', '250')
    assert source_of(path)[0]['label'] == 1
    thousand = source_of(path, num_classes=1000)
    assert len(thousand.class_names) == 1000 and thousand[0]['label'] == 250
    with refused('config.data.num_classes', '3', '2 classes'):
        source_of(path, num_classes=3)


@pytest.mark.parametrize('channels', [1, 3])
def test_images_become_rgb_or_grey_as_files_do(tmp_path, channels):
    images = PIXELS[..., : 4 - channels]
    source = source_of(write(tmp_path / 'x.npz', images), labels='none', image_channels=channels)
    for i in range(4):
        picture = Image.fromarray(images[i].squeeze()).convert({1: 'L', 3: 'RGB'}[channels])
        np.testing.assert_array_equal(source[i]['image'].squeeze(), np.asarray(picture))
        assert source[i]['image'].shape == (5, 6, channels)


def test_its_identity_is_its_content(tmp_path):
    first = source_of(write(tmp_path / 'x.npz', PIXELS, np.arange(4))).identity
    assert source_of(write(tmp_path / 'y.npz', PIXELS, np.arange(4))).identity == first
    assert source_of(write(tmp_path / 'z.npz', PIXELS, np.arange(4)[::-1])).identity != first
    assert source_of(write(tmp_path / 'u.npz', PIXELS[::-1], np.arange(4))).identity != first


def test_crops_of_large_images_are_kept(tmp_path):
    config = DataConfig('auto', str(write(tmp_path / 'x.npz', PIXELS, np.arange(4))), image_channels=3)
    source = cached(make_source(config, 'train'), config)
    assert source[0]['image'] is source[0]['image']


def test_its_test_images_are_in_a_file_of_their_own(tmp_path):
    path = write(tmp_path / 'a.npz', PIXELS, np.array([0, 3, 0, 3]))
    write(tmp_path / 'b.npz', PIXELS, np.array([3, 3, 3, 3]))
    with refused('config.data.test_split', "'test'", 'a.npz'):
        source_of(path, 'test')
    with refused('config.data.train_split', "'other'", 'a.npz'):
        source_of(path, train_split='other')
    assert len(source_of(path, 'test', test_split='')) == 4
    settings = {'train_split': 'a.npz', 'test_split': 'b.npz'}
    assert source_of(tmp_path, 'test', **settings).labels.tolist() == [1] * 4
    write(tmp_path / 'b.npz', PIXELS, np.array([0, 1, 2, 3]))
    with refused('b.npz, image 1', "'1'"):
        source_of(tmp_path, 'test', **settings, labels='folder', num_workers=1)


@pytest.mark.parametrize(
    ('arrays', 'values'),
    [
        ((PIXELS,), ['arr_1', "config.data.labels='none'"]),
        ((PIXELS.astype(np.float32), np.arange(4)), ['float32', 'uint8']),
        ((PIXELS, np.arange(3)), ['arr_1', '4 images']),
        ((PIXELS, np.array([0, 1, -1, 0])), ['-1']),
        ((), ['arr_0']),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, values):
    with refused('x.npz', *values):
        source_of(write(tmp_path / 'x.npz', *arrays))


def test_a_truncated_npz_is_refused(tmp_path):
    path = write(tmp_path / 'x.npz', PIXELS, np.arange(4))
    path.write_bytes(path.read_bytes()[:200])
    with refused('x.npz', 'cannot be read'):
        source_of(path)
