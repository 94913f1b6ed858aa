"""Unreadable images are replaced or left out; small images are decoded once."""

import itertools

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches, epoch, load_batch
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.data.sources.wrappers import cached, is_readable, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError
from tests.errors import refused

NUM_IMAGES = 10


@pytest.fixture
def folder(tmp_path):
    """Image i is of the grey level i; files 3, 4 and 9 are damaged."""
    for i in range(NUM_IMAGES):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f'{i}.png')
    for i in (3, 4, 9):
        (tmp_path / f'{i}.png').write_bytes((tmp_path / f'{i}.png').read_bytes()[:50])
    return tmp_path


def source_of(folder, **settings):
    settings = {'train_split': '', 'labels': 'none', 'num_classes': 1, 'on_error': 'skip'} | settings
    config = DataConfig('folder', path=str(folder), **settings)
    return skipping(make_source(config, 'train'), config)


def levels(batch):
    return batch['image'][:, 0, 0, 0].tolist()


def test_an_unreadable_image_is_replaced_by_the_next_readable_one(folder, caplog):
    source = source_of(folder)
    batch = load_batch(source, np.arange(NUM_IMAGES))
    assert levels(batch) == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]
    assert np.flatnonzero(~is_readable(source, np.arange(NUM_IMAGES))).tolist() == [3, 4, 9]
    load_batch(source, np.arange(NUM_IMAGES))
    logged = [record.message.split('/')[-1].split(':')[0] for record in caplog.records]
    assert logged == ['3.png', '4.png', '9.png']
    assert '3 of at most 100' in caplog.records[-1].message


@pytest.mark.parametrize(('num_workers', 'num_hosts'), [(0, 2), (3, 1), (3, 2)])
def test_replacements_depend_neither_on_hosts_nor_workers(folder, num_workers, num_hosts):
    expected = [levels(batch) for batch in itertools.islice(batches(source_of(folder), 4, seed=0), 5)]
    parts = []
    for host in range(num_hosts):
        iterator = batches(
            source_of(folder), 4, seed=0, num_workers=num_workers, host=host, num_hosts=num_hosts
        )
        parts.append([levels(batch) for batch in itertools.islice(iterator, 5)])
        iterator.close()
    assert [list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)] == expected


@pytest.mark.parametrize('num_workers', [0, 2])
def test_too_many_unreadable_images_stop(folder, num_workers):
    source = source_of(folder, max_skipped=2)
    iterator = batches(source, 4, seed=0, num_workers=num_workers)
    with pytest.raises(UserError) as error:
        list(itertools.islice(iterator, 5))
    assert not isinstance(error.value, UnreadableImage)
    iterator.close()
    with refused('config.data.max_skipped', 'got 2', '3 unreadable', '.png'):
        source[3]
    assert load_batch(source_of(folder, max_skipped=3), np.arange(NUM_IMAGES))


def test_no_readable_image_stops(folder):
    for i in range(NUM_IMAGES):
        (folder / f'{i}.png').write_bytes(b'')
    with refused('0.png', 'other 9'):
        source_of(folder)[0]


def test_an_epoch_has_each_readable_image_once(folder):
    passed = list(epoch(source_of(folder), 2))
    assert [levels(batch) for batch in passed] == [[0, 1], [2], [5], [6, 7], [8]]
    for i in (6, 7):
        (folder / f'{i}.png').write_bytes(b'')
    assert [levels(batch) for batch in epoch(source_of(folder), 2)] == [[0, 1], [2], [5], [8]]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_after_a_stop_the_same_batch_comes_again(folder, num_workers):
    """So that a state can be saved before leaving."""
    iterator = batches(source_of(folder, on_error='stop'), 2, seed=0, num_workers=num_workers)
    read = 0
    with refused('.png', 'config.data.on_error=skip', kind=UnreadableImage):
        for _ in range(5):
            next(iterator)
            read += 1
    position = iterator.get_state()
    iterator.close()
    uninterrupted = batches(source_of(folder), 2, seed=0)
    list(itertools.islice(uninterrupted, read))
    assert position == uninterrupted.get_state()


class Photographs(Source):
    """Images of several sizes; counts how often each was decoded."""

    class_names, identity = ('a', 'b'), 'x'

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 7

    def picture(self, index):
        self.decoded.append(index)
        shape = (20 + index, 13 + 2 * index, 3)
        image = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
        return {'image': image, 'label': index % 2}


PHOTOGRAPHS = DataConfig('folder', path='x', image_size=(6, 9), image_channels=3)


def test_cached_batches_are_the_same_and_each_image_is_decoded_once():
    transform = make_transform(PHOTOGRAPHS, flip=True)
    source = Photographs()
    both = cached(source, PHOTOGRAPHS), Photographs()
    ours, plain = (batches(each, 5, seed=3, transform=transform) for each in both)
    for batch, expected in itertools.islice(zip(ours, plain, strict=True), 12):
        np.testing.assert_array_equal(batch['image'], expected['image'])
        np.testing.assert_array_equal(batch['label'], expected['label'])
    assert sorted(source.decoded) == list(range(7))


def test_images_in_memory_or_too_many_are_not_cached():
    digits, photographs = digits_source('test'), Photographs()
    assert cached(digits, PHOTOGRAPHS) is digits
    size = 7 * 6 * 9 * 3
    assert cached(photographs, PHOTOGRAPHS, size - 1) is photographs
    assert cached(photographs, PHOTOGRAPHS, size) is not photographs
