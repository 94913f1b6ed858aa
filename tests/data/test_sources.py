"""Digits, folders of images, and TensorFlow data sets without TensorFlow."""

import dataclasses
import io
import os
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import make_source, open_source
from tests.errors import refused


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Digits


def test_every_digit_is_in_one_split():
    train, test = make_source(DataConfig('digits'), 'train'), make_source(DataConfig('digits'), 'test')
    assert (len(train), len(test)) == (1500, 297)
    assert train.class_names == test.class_names == tuple('0123456789')
    both = np.concatenate([train.images, test.images])
    assert both.shape == (1797, 8, 8, 1) and both.dtype == np.uint8
    real = load_digits()
    sixteenths = np.round(both / 255 * 16)
    labels = np.concatenate([train.labels, test.labels])
    rows = np.concatenate([sixteenths.reshape(1797, 64), labels[:, None]], axis=1)
    expected = np.concatenate([real.data, real.target[:, None]], axis=1)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])


def test_digits_are_split_the_same_way_each_time():
    first, second = make_source(DataConfig('digits'), 'test'), make_source(DataConfig('digits'), 'test')
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels[:10], [0, 4, 4, 8, 4, 9, 2, 6, 8, 4])
    assert (np.bincount(first.labels) > 20).all()


# Folders


def folder_config(path, **settings):
    defaults = {'train_split': '', 'image_channels': 3, 'num_classes': 2}
    return DataConfig('folder', path=str(path), **(defaults | settings))


def save(pixels, path, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    picture.convert(mode or picture.mode).save(path)


def records(source):
    return [source[index] for index in range(len(source))]


def test_folder_labels_are_the_sub_folders(tmp_path):
    red, blue = noise(4, 6, 3), noise(5, 3, 3, seed=1)
    save(red, tmp_path / 'zebra' / '1.png')
    save(blue, tmp_path / 'ant' / 'deeper' / '2.PNG')
    (tmp_path / 'ant' / '.hidden.png').write_text('no image')
    (tmp_path / 'ant' / 'notes.txt').write_text('no image')
    (tmp_path / 'ant' / '.trash').mkdir()
    save(red, tmp_path / 'ant' / '.trash' / '3.png')
    source = make_source(folder_config(tmp_path), 'train')
    assert source.class_names == ('ant', 'zebra')
    first, second = records(source)
    np.testing.assert_array_equal(first['image'], blue)
    np.testing.assert_array_equal(second['image'], red)
    assert (first['label'], second['label']) == (0, 1)


def test_classes_are_sorted_by_name_whatever_the_order_of_their_files(tmp_path):
    """'ant-b/' comes before 'ant/', and the first 'a' is in the last folder."""
    for name in ('ant-b/1.png', 'ant/2.png'):
        save(noise(2, 2, 3), tmp_path / 'folders' / name)
    source = make_source(folder_config(tmp_path / 'folders'), 'train')
    assert source.class_names == ('ant', 'ant-b')
    assert source.labels.tolist() == [1, 0]
    for name in ('b_1.png', 'c_0.png', 'sub/a_2.png'):
        save(noise(2, 2, 3), tmp_path / 'files' / name)
    source = make_source(folder_config(tmp_path / 'files', labels='prefix', num_classes=3), 'train')
    assert source.class_names == ('a', 'b', 'c')
    assert source.labels.tolist() == [1, 2, 0]


def test_without_labels_every_label_is_zero(tmp_path):
    for name in ('b_1.png', 'sub/a_2.png'):
        save(noise(2, 2, 3), tmp_path / name)
    source = make_source(folder_config(tmp_path, labels='none', num_classes=1), 'train')
    assert source.class_names == ()
    assert [record['label'] for record in records(source)] == [0, 0]
    with refused('config.data.num_classes', '2', 'no labels'):
        make_source(folder_config(tmp_path, labels='none'), 'train')


def test_test_images_keep_the_class_numbers_of_training(tmp_path):
    for name in ('train/ant/1.png', 'train/bee/1.png', 'val/bee/1.png'):
        save(noise(2, 2, 3), tmp_path / name)
    config = folder_config(tmp_path, train_split='train', test_split='val')
    source = make_source(config, 'test')
    assert source.class_names == ('ant', 'bee')
    assert [record['label'] for record in records(source)] == [1]

    save(noise(2, 2, 3), tmp_path / 'val/cat/1.png')
    assert make_source(config, 'test') is source, 'a folder is listed once'
    open_source.cache_clear()
    with refused('cat/1.png', "'cat'"):
        make_source(config, 'test')


def test_a_flat_folder_of_test_images_is_refused_by_any_labels(tmp_path):
    """As ImageNet's validation images come: all in one folder, their class not in their names."""
    for name in ('train/n01440764/n01440764_18.JPEG', 'val/ILSVRC2012_val_00000001.JPEG'):
        save(noise(2, 2, 3), tmp_path / name)
    config = folder_config(tmp_path, train_split='train', test_split='val', num_classes=1)
    with refused('val_00000001.JPEG', 'no sub-folder', "'prefix'", "'none'"):
        make_source(config, 'test')
    with refused('val_00000001.JPEG', "'ILSVRC2012'"):
        make_source(dataclasses.replace(config, labels='prefix'), 'test')


@pytest.mark.parametrize(
    ('mode', 'name'),
    [
        ('1', 'x.png'),
        ('L', 'x.png'),
        ('LA', 'x.png'),
        ('P', 'x.png'),
        ('RGBA', 'x.png'),
        ('P', 'x.gif'),
        ('L', 'x.JPG'),
        ('RGB', 'x.jpeg'),
        ('CMYK', 'x.jpg'),
    ],
)
@pytest.mark.parametrize('channels', [1, 3])
def test_every_kind_of_image_becomes_rgb_or_grey(tmp_path, mode, name, channels):
    save(noise(6, 9, 3), tmp_path / 'a' / name, mode)
    config = folder_config(tmp_path, image_channels=channels, num_classes=1)
    image = make_source(config, 'train')[0]['image']
    assert image.shape == (6, 9, channels) and image.dtype == np.uint8
    with Image.open(tmp_path / 'a' / name) as picture:
        expected = np.asarray(picture.convert({1: 'L', 3: 'RGB'}[channels]))
    np.testing.assert_array_equal(image, expected.reshape(image.shape))


@pytest.mark.parametrize('name', ['broken.png', 'broken.jpg', 'broken.gif'])
@pytest.mark.parametrize('damage', ['empty', 'garbage', 'truncated'])
def test_a_broken_image_is_named(tmp_path, name, damage):
    path = tmp_path / 'a' / name
    save(noise(50, 50, 3), path)
    content = {'empty': b'', 'garbage': b'garbage' * 99, 'truncated': path.read_bytes()[:400]}[damage]
    path.write_bytes(content)
    source = make_source(folder_config(tmp_path, num_classes=1), 'train')
    with refused(name):
        source[0]


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    save(np.full((4, 4), 40000, np.uint16), tmp_path / 'a' / 'deep.png')
    with refused('deep.png', '8 bits'):
        make_source(folder_config(tmp_path, num_classes=1), 'train')[0]


@pytest.mark.parametrize('name', ['lonely.png', '_1.png', 'sub_folder/x.png'])
def test_an_image_without_a_class_is_named(tmp_path, name):
    save(noise(2, 2, 3), tmp_path / 'a' / 'a_1.png')
    save(noise(2, 2, 3), tmp_path / name)
    with refused(name, "'_'", "'none'"):
        make_source(folder_config(tmp_path, labels='prefix'), 'train')
    if '/' not in name:
        with refused(name, 'no sub-folder', "'prefix'"):
            make_source(folder_config(tmp_path), 'train')


def test_the_number_of_classes_must_be_that_of_the_images(tmp_path):
    save(noise(2, 2, 3), tmp_path / 'x_1.png')
    with refused('config.data.num_classes', '2', '1 classes (x)'):
        make_source(folder_config(tmp_path, labels='prefix'), 'train')
    assert make_source(folder_config(tmp_path, labels='prefix', num_classes=None), 'train')


@pytest.mark.parametrize(
    ('path', 'settings', 'where', 'values'),
    [
        ('images.zip', {}, 'images.zip', ['is a file', 'config.data.path']),
        ('', {'train_split': 'train'}, '/train', ['ant/, bee/', 'config.data.train_split', "''"]),
        ('', {'train_split': 'images.zip'}, 'images.zip', ['is a file', 'config.data.train_split']),
        ('', {'test_split': 'val'}, '/val', ['ant/, bee/', 'config.data.test_split']),
        ('nowhere', {}, 'nowhere', ['config.data.path']),
        ('bee', {}, 'bee', ['1 with suffix .txt (x.txt)']),
    ],
)
def test_a_folder_without_images_is_refused(tmp_path, path, settings, where, values):
    save(noise(2, 2, 3), tmp_path / 'ant' / '1.png')
    (tmp_path / 'bee').mkdir()
    (tmp_path / 'bee' / 'x.txt').touch()
    (tmp_path / 'images.zip').touch()
    config = folder_config(tmp_path / path, num_classes=1, **settings)
    with refused(where, *values):
        make_source(config, 'test' if 'test_split' in settings else 'train')


def test_splits_are_not_taken_for_classes(tmp_path):
    for name in ('train/ant/1.png', 'test/ant/1.png'):
        save(noise(2, 2, 3), tmp_path / name)
    with refused(str(tmp_path), 'test, train', 'config.data.train_split'):
        make_source(folder_config(tmp_path), 'train')
    assert len(make_source(folder_config(tmp_path, labels='none', num_classes=1), 'train')) == 2


def test_the_identity_depends_on_the_names_of_files_below_the_folder(tmp_path):
    for name in ('a/x/1.png', 'b/x/1.png', 'c/x/2.png'):
        save(noise(2, 2, 3), tmp_path / name)
    one, moved, renamed = (make_source(folder_config(tmp_path / n, num_classes=1), 'train') for n in 'abc')
    assert one.identity == moved.identity != renamed.identity


def test_class_folders_that_are_not_utf8(tmp_path):
    save(noise(2, 2, 3), tmp_path / 'ant' / '1.png')
    os.rename(tmp_path / 'ant', bytes(tmp_path) + b'/\xe9cole')
    save(noise(2, 2, 3), tmp_path / 'bee' / '1.png')
    source = make_source(folder_config(tmp_path), 'train')
    assert source.class_names == ('\\xe9cole', 'bee')
    assert source.labels.tolist() == [1, 0]
    assert [record['label'] for record in records(source)] == [1, 0]


def test_what_is_skipped_of_a_split_is_known(tmp_path):
    for name in ('train/ant/1.png', 'test/ant/1.png'):
        save(noise(2, 2, 3), tmp_path / name)
    (tmp_path / 'train/ant/up').symlink_to('..')
    config = folder_config(tmp_path, train_split='train', num_classes=1)
    train, test = make_source(config, 'train'), make_source(config, 'test')
    assert len(train) == 1 and '(ant/up)' in train.skipped
    assert len(test) == 1 and test.skipped == ''


# TensorFlow data sets

SHAPES = [noise(4, 5, 3, seed=seed) for seed in range(3)]


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Three images with labels, written as encoded bytes so that nothing needs TensorFlow."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
            'label': tfds.features.ClassLabel(names=['square', 'disc']),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._examples(range(2)), 'validation': self._examples(range(2, 3))}

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, indices):
        for index in indices:
            file = io.BytesIO()
            Image.fromarray(SHAPES[index]).save(file, format='png')
            file.seek(0)
            yield index, {'image': file, 'label': ['square', 'disc'][index % 2]}


@pytest.fixture(scope='module')
def tiny_shapes(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp('tfds')
    TinyShapes(data_dir=data_dir, file_format='array_record').download_and_prepare()
    config = DataConfig('tfds', path=str(data_dir), tfds_name='tiny_shapes', test_split='validation')
    return dataclasses.replace(config, image_channels=3, num_classes=2)


def test_tfds_is_read_without_tensorflow(tiny_shapes):
    train, test = make_source(tiny_shapes, 'train'), make_source(tiny_shapes, 'test')
    assert train.class_names == test.class_names == ('square', 'disc')
    read = records(train) + records(test)
    assert [*train.labels, *test.labels] == [record['label'] for record in read]
    assert [len(train), len(test)] == [2, 1]
    assert train.identity != test.identity
    for record in read:
        assert record['image'].dtype == np.uint8
        index = next(i for i, image in enumerate(SHAPES) if np.array_equal(image, record['image']))
        assert record['label'] == index % 2
    assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize(
    ('changed', 'where', 'values'),
    [
        (
            {'path': '/nowhere'},
            'config.data.tfds_name',
            ['/nowhere', 'tfds build tiny_shapes --file_format=array_record'],
        ),
        ({'tfds_name': 'no_such_shapes'}, 'config.data.tfds_name', ['no_such_shapes']),
        ({'train_split': 'extra'}, 'tiny_shapes', ["'extra'", 'train, validation']),
        ({'image_channels': 1}, 'tiny_shapes', ['1 channels', 'Image(shape=(None, None, 3)']),
        ({'num_classes': 3}, 'config.data.num_classes', ['3', '2 classes']),
    ],
)
def test_what_a_tfds_lacks_is_named(tiny_shapes, changed, where, values):
    with refused(where, *values):
        make_source(dataclasses.replace(tiny_shapes, **changed), 'train')


def test_tfds_in_another_format_is_refused(tiny_shapes, tmp_path):
    shutil.copytree(tiny_shapes.path, tmp_path, dirs_exist_ok=True)
    info = tmp_path / 'tiny_shapes' / '1.0.0' / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    with refused('config.data.tfds_name', 'tiny_shapes', str(tmp_path)):
        make_source(dataclasses.replace(tiny_shapes, path=str(tmp_path)), 'train')
