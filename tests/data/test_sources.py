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
from diffusion_jax.data.sources import make_source
from diffusion_jax.errors import UserError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Digits


def test_digits_are_all_there_once():
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


def test_gather_and_index_agree():
    source = make_source(DataConfig('digits'), 'train')
    gathered = source.gather(np.array([5, 3]))
    for row, index in enumerate((5, 3)):
        np.testing.assert_array_equal(gathered['image'][row], source[index]['image'])
        assert gathered['label'][row] == source[index]['label']


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
    source = make_source(folder_config(tmp_path), 'train')
    assert source.class_names == ('ant', 'zebra')
    first, second = records(source)
    np.testing.assert_array_equal(first['image'], blue)
    np.testing.assert_array_equal(second['image'], red)
    assert (first['label'], second['label']) == (0, 1)


def test_prefix_labels_are_sorted_over_all_files(tmp_path):
    for name in ('b_1.png', 'sub/a_2.png', 'c_0.png', 'a_9.png'):
        save(noise(2, 2, 3), tmp_path / name)
    source = make_source(folder_config(tmp_path, labels='prefix', num_classes=3), 'train')
    assert source.class_names == ('a', 'b', 'c')
    assert [record['label'] for record in records(source)] == [0, 1, 2, 0]


def test_without_labels_every_label_is_zero(tmp_path):
    for name in ('b_1.png', 'sub/a_2.png'):
        save(noise(2, 2, 3), tmp_path / name)
    source = make_source(folder_config(tmp_path, labels='none', num_classes=1), 'train')
    assert source.class_names == ()
    assert [record['label'] for record in records(source)] == [0, 0]
    with pytest.raises(UserError, match='num_classes is 2; the images have no labels, for which it is 1'):
        make_source(folder_config(tmp_path, labels='none'), 'train')


def test_test_images_keep_the_class_numbers_of_training(tmp_path):
    for name in ('train/ant/1.png', 'train/bee/1.png', 'val/bee/1.png'):
        save(noise(2, 2, 3), tmp_path / name)
    config = folder_config(tmp_path, train_split='train', test_split='val')
    source = make_source(config, 'test')
    assert source.class_names == ('ant', 'bee')
    assert [record['label'] for record in records(source)] == [1]

    save(noise(2, 2, 3), tmp_path / 'val/cat/1.png')
    with pytest.raises(UserError, match="cat/1.png.*'cat' has no training images; name it like one"):
        make_source(config, 'test')


def test_a_flat_folder_of_test_images_is_refused_by_any_labels(tmp_path):
    """As ImageNet's validation images come: all in one folder, their class not in their names."""
    for name in ('train/n01440764/n01440764_18.JPEG', 'val/ILSVRC2012_val_00000001.JPEG'):
        save(noise(2, 2, 3), tmp_path / name)
    config = folder_config(tmp_path, train_split='train', test_split='val', num_classes=1)
    with pytest.raises(UserError, match='val_00000001.JPEG: lies in no sub-folder.*one sub-folder a class'):
        make_source(config, 'test')
    with pytest.raises(UserError, match="val_00000001.JPEG: its class 'ILSVRC2012' has no training images"):
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
    with pytest.raises(UserError, match=name):
        source[0]


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    save(np.full((4, 4), 40000, np.uint16), tmp_path / 'a' / 'deep.png')
    with pytest.raises(UserError, match='deep.png.*8 bits'):
        make_source(folder_config(tmp_path, num_classes=1), 'train')[0]


def test_what_a_folder_lacks_is_said(tmp_path):
    with pytest.raises(UserError, match='nowhere: no such directory'):
        make_source(folder_config(tmp_path / 'nowhere'), 'train')
    with pytest.raises(UserError, match='no image there'):
        make_source(folder_config(tmp_path), 'train')
    save(noise(2, 2, 3), tmp_path / 'lonely.png')
    with pytest.raises(UserError, match="lonely.png: lies in no sub-folder.*'prefix'"):
        make_source(folder_config(tmp_path), 'train')
    with pytest.raises(UserError, match="lonely.png: .*before a '_'"):
        make_source(folder_config(tmp_path, labels='prefix'), 'train')
    save(noise(2, 2, 3), tmp_path / 'x_1.png')
    (tmp_path / 'lonely.png').unlink()
    with pytest.raises(UserError, match='num_classes is 2; the images have 1'):
        make_source(folder_config(tmp_path, labels='prefix'), 'train')


@pytest.mark.parametrize(
    ('path', 'settings', 'message'),
    [
        ('images.zip', {}, 'images.zip: is a file; set config.data.path to the folder.*unpack'),
        (
            '',
            {'train_split': 'train'},
            r"train: no such directory; .* has 2 folders \(ant, bee\) and 1 files;.*''",
        ),
        ('', {'train_split': 'images.zip'}, 'images.zip: is a file; set config.data.train_split'),
        ('', {'test_split': 'val'}, 'val: no such directory;.*set config.data.test_split'),
        ('nowhere', {}, 'nowhere: no such directory; set config.data.path'),
        ('bee', {}, r'bee: no image there;.*skipped 1 files and folders: 1 with suffix .txt \(x.txt\)'),
    ],
)
def test_what_is_at_a_path_and_what_to_set_is_said(tmp_path, path, settings, message):
    save(noise(2, 2, 3), tmp_path / 'ant' / '1.png')
    (tmp_path / 'bee').mkdir()
    (tmp_path / 'bee' / 'x.txt').touch()
    (tmp_path / 'images.zip').touch()
    config = folder_config(tmp_path / path, num_classes=1, **settings)
    with pytest.raises(UserError, match=message):
        make_source(config, 'test' if 'test_split' in settings else 'train')


def test_splits_are_not_taken_for_classes(tmp_path):
    for name in ('train/ant/1.png', 'test/ant/1.png'):
        save(noise(2, 2, 3), tmp_path / name)
    with pytest.raises(UserError, match='test, train are splits .* set config.data.train_split'):
        make_source(folder_config(tmp_path), 'train')
    assert len(make_source(folder_config(tmp_path, labels='none', num_classes=1), 'train')) == 2


@pytest.mark.parametrize('name', ['lonely.png', '_1.png', 'sub_folder/x.png'])
def test_a_name_without_a_prefix_is_no_class(tmp_path, name):
    save(noise(2, 2, 3), tmp_path / 'a_1.png')
    save(noise(2, 2, 3), tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: .*before a '_'"):
        make_source(folder_config(tmp_path, labels='prefix'), 'train')


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
    for record in read:
        assert record['image'].dtype == np.uint8
        index = next(i for i, image in enumerate(SHAPES) if np.array_equal(image, record['image']))
        assert record['label'] == index % 2
    assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'path': '/nowhere'}, '/nowhere holds no.*tfds build tiny_shapes --file_format=array_record'),
        ({'tfds_name': 'no_such_shapes'}, 'no_such_shapes.*no such data set'),
        ({'train_split': 'extra'}, "no split 'extra'.*train, validation"),
        ({'image_channels': 1}, 'image_channels'),
        ({'num_classes': 3}, 'num_classes is 3; the images have 2'),
    ],
)
def test_what_a_tfds_lacks_is_said(tiny_shapes, changed, message):
    with pytest.raises(UserError, match=message):
        make_source(dataclasses.replace(tiny_shapes, **changed), 'train')


def test_tfds_in_another_format_is_refused(tiny_shapes, tmp_path):
    shutil.copytree(tiny_shapes.path, tmp_path, dirs_exist_ok=True)
    info = tmp_path / 'tiny_shapes' / '1.0.0' / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    with pytest.raises(UserError, match='holds no tiny_shapes as ArrayRecord'):
        make_source(dataclasses.replace(tiny_shapes, path=str(tmp_path)), 'train')
