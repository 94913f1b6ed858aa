"""TensorFlow data sets of every kind of features: they work, or are refused in one line."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import load_batch
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.kinds import resolve
from tests.errors import refused

features = tfds.features
RGB = features.Image(shape=(None, None, 3), encoding_format='png')
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 4), np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format='png')
    file.seek(0)
    return file


class AnyRecords(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    KINDS: dict | None = None
    RECORDS = ()

    def _info(self):
        return self.dataset_info_from_configs(features=features.FeaturesDict(self.KINDS))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(self.RECORDS)


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """(features, records) → the config of a data set that has these."""

    def prepare(kinds, records, **settings):
        monkeypatch.setattr(AnyRecords, 'KINDS', kinds)
        monkeypatch.setattr(AnyRecords, 'RECORDS', records)
        AnyRecords(data_dir=tmp_path, file_format='array_record').download_and_prepare()
        settings = {'image_channels': 3, 'num_classes': 2} | settings
        return DataConfig('tfds', path=str(tmp_path), tfds_name='any_records', **settings)

    return prepare


def read(config):
    source = make_source(config, 'train')
    return load_batch(source, np.arange(len(source)))


UNLABELLED = {'labels': 'none', 'num_classes': 1}
INTEGER = features.Scalar(np.int64)
CLASS = features.ClassLabel(num_classes=2)


@pytest.mark.parametrize(
    ('kind', 'labels', 'settings', 'refusal'),
    [
        (CLASS, [0, 1], {}, None),
        (INTEGER, [0, 1], {}, None),
        (features.Scalar(np.bool_), [False, True], {}, None),
        (
            CLASS,
            [0, -1],
            {},
            ('', 'label is -1', '0 to 1', "'none'"),
        ),
        (INTEGER, [0, 2], {}, ('', 'label is 2', '0 to 1')),
        (INTEGER, [0, 2**40], {}, ('', f'label is {2**40}')),
        (
            features.Scalar(np.float32),
            [0.0, 1.0],
            {},
            ('any_records', 'float32', 'ClassLabel'),
        ),
        (features.Text(), ['a', 'b'], {}, ('any_records', 'Text')),
        (features.FeaturesDict({'x': CLASS}), [{'x': 0}, {'x': 1}], {}, ('any_records', 'FeaturesDict')),
        (features.Sequence(CLASS), [[0], [1]], {}, ('any_records', 'Sequence')),
        (features.Sequence({'x': CLASS}), [{'x': [0]}, {'x': [1]}], {}, ('any_records', 'Sequence')),
        (CLASS, [0, -1], UNLABELLED, None),
        (features.Text(), ['a', 'b'], UNLABELLED, None),
        (None, [0, 0], UNLABELLED, None),
        (None, [0, 0], {}, ('config.data.num_classes', '2', 'no labels')),
        (INTEGER, [0, 1], {'num_classes': None}, ('any_records', 'int64', 'config.data.num_classes')),
    ],
)
def test_labels_are_classes_or_refused_or_unused(prepare, kind, labels, settings, refusal):
    kinds = {'image': RGB} | ({'label': kind} if kind is not None else {})
    records = [
        {'image': png(PIXELS[..., :3])} | ({'label': label} if kind is not None else {}) for label in labels
    ]
    config = prepare(kinds, records, **settings)
    if refusal:
        with refused(*refusal):
            read(config)
        return
    assert sorted(read(config)['label']) == ([0, 1] if not settings else [0, 0])
    assert make_source(config, 'train').class_names == (() if settings else ('0', '1'))


@pytest.mark.parametrize(
    ('kinds', 'image', 'channels', 'values'),
    [
        (
            {'img': RGB},
            PIXELS[..., :3],
            3,
            ['img'],
        ),
        (
            {'image': features.Tensor(shape=(4, 5, 3), dtype=np.uint8)},
            PIXELS[..., :3],
            3,
            ['Tensor('],
        ),
        (
            {'image': features.Sequence(RGB)},
            PIXELS[..., :3],
            3,
            ['Sequence'],
        ),
        (
            {'image': features.Image(shape=(None, None, 1), dtype=np.uint16)},
            PIXELS[..., 0],
            1,
            ['uint16'],
        ),
        (
            {'image': features.Image(shape=(None, None, 4))},
            PIXELS,
            3,
            ['4)', '3 channels'],
        ),
    ],
)
def test_images_of_other_kinds_are_refused(prepare, kinds, image, channels, values):
    (name,) = kinds
    value = image if isinstance(kinds[name], features.Tensor) else png(image)
    if type(kinds[name]) is features.Sequence:
        value = [value]
    config = prepare(kinds, [{name: value}], image_channels=channels, **UNLABELLED)
    with refused('any_records', *values):
        read(config)


@pytest.mark.parametrize('shape', [(None, None, None), None])
def test_images_of_unknown_channels_are_converted_as_files_are(prepare, shape):
    pixels = PIXELS.copy()
    pixels[0, :, 3], pixels[1:, :, 3] = 0, 255
    config = prepare({'image': features.Image(shape=shape)}, [{'image': png(pixels)}], **UNLABELLED)
    (image,) = read(config)['image']
    assert (image[0] == 255).all()
    np.testing.assert_array_equal(image[1:], pixels[1:, :, :3])


def test_a_damaged_image_is_named(prepare):
    config = prepare({'image': RGB}, [{'image': io.BytesIO(b'garbage')}], **UNLABELLED)
    with refused("any_records, split 'train', record 0"):
        read(config)


def test_the_folder_of_a_data_set_is_enough(prepare, tmp_path):
    named = prepare({'image': RGB, 'label': CLASS}, [{'image': png(PIXELS[..., :3]), 'label': 1}])
    folder = tmp_path / 'any_records'
    for path in (folder, folder / '1.0.0'):
        config = dataclasses.replace(named, name='auto', tfds_name='', path=str(path))
        assert resolve(config).name == 'tfds'
        assert read(config)['label'] == [1]
        assert make_source(config, 'train').identity == make_source(named, 'train').identity
    assert resolve(dataclasses.replace(named, name='auto')).name == 'tfds'
    with refused('config.data.tfds_name', str(tmp_path), 'dataset_info.json'):
        read(dataclasses.replace(named, tfds_name=''))


def test_the_command_that_converts_a_folder_is_named(prepare, tmp_path):
    config = prepare({'image': RGB}, [{'image': png(PIXELS[..., :3])}], **UNLABELLED)
    folder = tmp_path / 'any_records' / '1.0.0'
    info = folder / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    command = f'tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record'
    with refused('config.data.path', command):
        read(dataclasses.replace(config, name='auto', tfds_name='', path=str(folder)))
