"""LSUN's layout: encoded images by keys of any bytes."""

import sys
from concurrent.futures import ThreadPoolExecutor

import lmdb
import numpy as np
import pytest

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import lmdb as lmdb_module
from diffusion_jax.data.sources import make_source, open_source
from diffusion_jax.data.sources.reading import UnreadableImage, read_picture
from diffusion_jax.errors import UserError
from tests.data.test_faults import RGB, encoded
from tests.errors import refused

WEBP = [encoded(RGB.rotate(90 * i, expand=True), 'webp', lossless=True) for i in range(4)]
KEYS = [bytes([0, 255, i]) * 10 for i in range(4)]


def write(path, images):
    with lmdb.open(str(path), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        for key, value in images.items():
            transaction.put(key, value)
    return path


@pytest.fixture
def lsun(tmp_path):
    return write(tmp_path / 'bedroom_train_lmdb', dict(zip(KEYS, WEBP, strict=True)))


def source_of(path, split='train', **settings):
    settings = {'image_channels': 3, 'labels': 'none'} | settings
    return make_source(DataConfig('auto', path=str(path), **settings), split)


def test_lsun_is_read_by_threads_without_writing(lsun):
    before = {path.name: path.stat().st_mtime_ns for path in lsun.iterdir()}
    source = source_of(lsun)
    assert (source.keys, source.class_names, source.labels.tolist()) == (KEYS, (), [0] * 4)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda i: source[i % 4]['image'], range(40)))
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image, read_picture(WEBP[i % 4], 3, ''))
    assert before == {path.name: path.stat().st_mtime_ns for path in lsun.iterdir()}
    open_source.cache_clear()
    assert source_of(lsun).identity == source.identity, 'opened once in a process'


def test_splits_are_folders_of_their_own(lsun):
    write(lsun.parent / 'bedroom_val_lmdb', {b'x': WEBP[0]})
    splits = {'train_split': 'bedroom_train_lmdb', 'test_split': 'bedroom_val_lmdb'}
    train, test = (source_of(lsun.parent, split, **splits) for split in ('train', 'test'))
    assert (len(train), len(test)) == (4, 1) and train.identity != test.identity
    with refused('config.data.test_split', "'test'", 'bedroom_train_lmdb'):
        source_of(lsun, 'test')


def test_keys_that_are_paths_give_classes(tmp_path, lsun):
    path = write(tmp_path / 'paths', {b'dog/1.webp': WEBP[0], b'cat/2.webp': WEBP[1]})
    source = source_of(path, labels='folder')
    assert source.class_names == ('cat', 'dog') and source.labels.tolist() == [0, 1]
    assert source.name_of(0).endswith('paths/cat/2.webp')
    path = write(tmp_path / 'prefixes', {b'dog_1': WEBP[0]})
    assert source_of(path, labels='prefix').class_names == ('dog',)
    with refused('', "'none'"):
        source_of(lsun, labels='folder')


def test_an_image_that_is_gone_or_damaged_is_named(tmp_path):
    source = source_of(write(tmp_path / 'x', {b'1\xff': WEBP[0], b'2': WEBP[1][:100]}))
    with refused('x/2', 'cannot be read', kind=UnreadableImage):
        source[1]
    source.keys[0] = b'3\xff'
    with refused('x/3\\xff', 'no longer', kind=UnreadableImage):
        source[0]
    source.keys[0] = b''
    with refused('x/', kind=UnreadableImage):
        source[0]


def test_what_is_no_lmdb_is_refused(tmp_path, lsun):
    content = (lsun / 'data.mdb').read_bytes()
    for name, damaged in {'short': content[:-4096], 'garbage': b'garbage' * 3000, 'empty': b''}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / 'data.mdb').write_bytes(damaged)
        with refused(name, 'truncated' if name == 'short' else 'cannot be read'):
            source_of(tmp_path / name)
    with refused('none', 'no images'):
        source_of(write(tmp_path / 'none', {}))
    with refused('images', 'data.mdb'):
        (tmp_path / 'images').mkdir()
        make_source(DataConfig('lmdb', path=str(tmp_path / 'images')), 'train')


def test_the_package_is_asked_for_where_it_is_missing(lsun, monkeypatch):
    lmdb_module._environment.cache_clear()
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with refused('bedroom_train_lmdb', "pip install 'diffusion_jax[lmdb]'"):
        source_of(lsun)


def test_what_concerns_all_images_makes_no_image_unreadable(lsun, monkeypatch):
    source = source_of(lsun)
    lmdb_module._environment.cache_clear()
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(UserError, match='pip install') as error:
        source[0]
    assert not isinstance(error.value, UnreadableImage)
