"""Every kind of source is recognised by its path, and feeds the same batches of the same images."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffusion_jax.commands.prepare import main as prepare
from diffusion_jax.data.config import KINDS as NAMES
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import class_names, make_source
from diffusion_jax.data.sources.kinds import KINDS, resolve
from diffusion_jax.data.transforms import make_transform
from tests.data.copies import COPIES, folder
from tests.errors import refused

CLASSES = ('bald eagle', 'cat', 'golden retriever')
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 6, 3), np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format='png')
    return file.getvalue()


def named(split, index):
    return f'{split}/{CLASSES[index // 2 % 3]}/{index}.png'


# Six images to train, three to test, in the order of their names.
FILES = {named('train', i): png(PIXELS[i]) for i in range(6)} | {
    f'test/{CLASSES[i - 6]}/{i}.png': png(PIXELS[i]) for i in range(6, 9)
}
LABELS = {'train': [0, 0, 1, 1, 2, 2], 'test': [0, 1, 2]}
BOUNDS = {'train': slice(0, 6), 'test': slice(6, 9)}


def npz(root, files):
    root.mkdir()
    for split, bounds in BOUNDS.items():
        np.savez(root / f'{split}.npz', PIXELS[bounds], np.array(LABELS[split]))
    return {'path': str(root), 'train_split': 'train.npz', 'test_split': 'test.npz'}


class SameImages(tfds.core.GeneratorBasedBuilder):
    """Written as encoded bytes, so that nothing needs TensorFlow."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
            'label': tfds.features.ClassLabel(names=list(CLASSES)),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in BOUNDS}

    def _generate_examples(self, split):
        for i, (pixels, label) in enumerate(zip(PIXELS[BOUNDS[split]], LABELS[split], strict=True)):
            yield i, {'image': io.BytesIO(png(pixels)), 'label': label}


def prepared(root, files):
    SameImages(data_dir=root, file_format='array_record').download_and_prepare()
    return {'path': str(root / 'same_images' / '1.0.0')}


def prepared_once(root, files):
    folder(root / 'images', files)
    prepare(['prepare', f'{root}/images', f'--out={root}/out', '--size=full', '--split=train,test'])
    return {'path': str(root / 'out')}


ALL = COPIES | {'npz': npz, 'tfds': prepared, 'prepared': prepared_once}
KIND_OF = {
    'zip': 'archive',
    'zip, deflated': 'archive',
    'tar': 'archive',
    'csv': 'table',
    'jsonl': 'table',
    'metadata.csv': 'table',
}


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    root = tmp_path_factory.mktemp('copies')
    return {
        name: DataConfig('auto', **copy(root / name, FILES), image_size=(5, 5), image_channels=3)
        for name, copy in ALL.items()
    }


def first_batches(config, split, **settings):
    transform = make_transform(config, crop_randomly=True, flip=True)
    iterator = batches(make_source(config, split), 4, seed=3, transform=transform, **settings)
    taken = list(itertools.islice(iterator, 3))
    iterator.close()
    return [(batch['image'].tobytes(), batch['label'].tolist()) for batch in taken]


@pytest.fixture(scope='module')
def expected(configs):
    return {split: first_batches(configs['folder'], split) for split in BOUNDS}


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('split', BOUNDS)
def test_batches_are_the_same_to_the_byte(configs, expected, name, split):
    config = configs[name]
    source = make_source(config, split)
    for index, (pixels, label) in enumerate(zip(PIXELS[BOUNDS[split]], LABELS[split], strict=True)):
        assert source[index]['image'].tobytes() == pixels.tobytes() and source[index]['label'] == label
    assert source.labels.tolist() == LABELS[split]
    assert first_batches(config, split, num_workers=2) == expected[split]
    assert open_split(config, split).take(np.arange(3)).shape == (3, 5, 5, 3)


@pytest.mark.parametrize('name', ALL)
def test_every_kind_is_prepared_to_the_same_bytes(configs, tmp_path, name):
    stored = []
    for config in (configs['folder'], configs[name]):
        out = tmp_path / f'out{len(stored)}'
        splits = (config.train_split, config.test_split)
        prepare(['prepare', config.path, f'--out={out}', '--size=5', f'--split={",".join(splits)}'])
        stored.append([(out / split / '00000.array_record').read_bytes() for split in splits])
    assert stored[0] == stored[1]


def test_a_manifest_of_others_is_no_prepared_folder(tmp_path):
    (tmp_path / 'cat').mkdir()
    (tmp_path / 'cat' / '1.png').write_bytes(png(PIXELS[0]))
    (tmp_path / 'manifest.json').write_text('{"name": "a web page"}')
    assert resolve(DataConfig('auto', str(tmp_path))).name == 'folder'


@pytest.mark.parametrize('name', ALL)
def test_the_path_tells_the_kind_and_the_data_their_classes(configs, name):
    assert resolve(configs[name]) == dataclasses.replace(configs[name], name=KIND_OF.get(name, name))
    source = make_source(configs[name], 'train')
    assert class_names(source) == (('0', '1', '2') if name == 'npz' else CLASSES)
    assert make_source(dataclasses.replace(configs[name], num_classes=3), 'test').class_names
    with refused('config.data.num_classes', '2', '3 classes'):
        make_source(dataclasses.replace(configs[name], num_classes=2), 'train')


@pytest.mark.parametrize('name', ALL)
def test_labels_may_be_left_out(configs, name):
    source = make_source(dataclasses.replace(configs[name], labels='none'), 'test')
    assert source.class_names == () and source[2]['label'] == 0 and len(source) == 3


def test_an_archive_has_the_identity_of_its_folder(configs):
    identities = {name: make_source(configs[name], 'train').identity for name in ALL}
    same = {identities[name] for name in ('folder', 'zip', 'zip, deflated', 'tar')}
    assert len(same) == 1
    others = {identities[name] for name in ('csv', 'metadata.csv', 'lmdb', 'npz', 'tfds')}
    assert len(others) == 5 and same.isdisjoint(others)


@pytest.mark.parametrize('name', ALL)
def test_features_of_other_files_are_not_used(configs, name, tmp_path, monkeypatch):
    """The identity of a part changes with the files that hold its images, and with the kind."""
    before = open_split(configs[name], 'train').parts[0].identity
    assert before == open_split(resolve(configs[name]), 'train').parts[0].identity
    if name != 'tfds':  # whose version is its identity
        monkeypatch.setattr('diffusion_jax.data.image_sets.source.file_identity', lambda path: 'changed')
        assert before != open_split(configs[name], 'train').parts[0].identity


def test_every_kind_has_a_name_in_the_settings():
    assert (*KINDS,) == NAMES


def test_a_folder_without_splits_is_the_training_split(tmp_path):
    files = {name.removeprefix('train/'): content for name, content in FILES.items() if 'train' in name}
    config = DataConfig('auto', **folder(tmp_path / 'x', files), image_channels=3)
    assert resolve(config) == dataclasses.replace(config, name='folder', train_split='')
    assert make_source(config, 'train').class_names == CLASSES
    with refused('/test', 'config.data.test_split'):
        make_source(config, 'test')
    (tmp_path / 'x' / 'Val').mkdir()
    assert resolve(config).train_split == 'train'


@pytest.mark.parametrize(
    ('add', 'kinds'),
    [
        ({'data.mdb': b''}, ["'folder'", "'lmdb'"]),
        ({'dataset_info.json': b''}, ["'folder'", "'tfds'"]),
        ({'metadata.csv': b'file_name,label\ntrain/cat/1.png,tabby\ntrain/dog/2.png,dog\n'}, ["'table'"]),
        (
            {'train/metadata.jsonl': b'{"file_name": "cat/1.png", "label": 3}\n' * 2, 'data.mdb': b''},
            ['3 kinds'],
        ),
    ],
)
def test_a_folder_of_two_kinds_is_refused(tmp_path, add, kinds):
    files = {'train/cat/1.png': FILES[named('train', 0)], 'train/dog/2.png': FILES[named('train', 1)]}
    config = DataConfig('auto', **folder(tmp_path / 'x', files | add), image_channels=3)
    with refused('/x', 'config.data.name', *kinds):
        make_source(config, 'train')
    assert make_source(dataclasses.replace(config, name='folder'), 'train').class_names == ('cat', 'dog')


@pytest.mark.parametrize(
    ('path', 'where', 'values'),
    [
        ('nowhere', 'config.data.path', ['nowhere']),
        ('notes.txt', 'notes.txt', ['config.data.name', 'archive']),
        ('empty', 'empty/train', ['empty', '.webp']),
    ],
)
def test_a_path_of_no_kind_is_refused(tmp_path, path, where, values):
    (tmp_path / 'notes.txt').touch()
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'train').mkdir()
    with refused(where, *values):
        make_source(DataConfig('auto', path=str(tmp_path / path)), 'train')
