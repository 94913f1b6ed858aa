"""Unreadable images and labels that are no class: found, named, replaced or left out."""

import itertools

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import checking
from diffusion_jax.data.checking import check_images
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches, epoch, load_batch
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.array import ArraySource
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.data.sources.skipping import is_readable, remedy_named, skipping
from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted

NUM_IMAGES = 10


@pytest.fixture
def folder(tmp_path):
    """Image i is of the grey level i; files 3, 4 and 9 are damaged."""
    for i in range(NUM_IMAGES):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f'{i}.png')
    for i in (3, 4, 9):
        (tmp_path / f'{i}.png').write_bytes((tmp_path / f'{i}.png').read_bytes()[:50])
    return tmp_path


def config_of(folder, **settings):
    settings = {'train_split': '', 'labels': 'none', 'num_classes': 1, 'on_error': 'skip'} | settings
    return DataConfig('folder', path=str(folder), **settings)


def source_of(folder, **settings):
    config = config_of(folder, **settings)
    return skipping(make_source(config, 'train'), config)


def levels(batch):
    return batch['image'][:, 0, 0, 0].tolist()


def test_the_next_readable_image_stands_for_one_that_is_not(folder, caplog):
    source = source_of(folder)
    batch = load_batch(source, np.arange(NUM_IMAGES))
    assert levels(batch) == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]
    assert np.flatnonzero(~is_readable(source, np.arange(NUM_IMAGES))).tolist() == [3, 4, 9]
    load_batch(source, np.arange(NUM_IMAGES))
    assert [record.message.split('/')[-1].split(':')[0] for record in caplog.records] == [
        '3.png',
        '4.png',
        '9.png',
    ]
    assert '3 of at most 100 images' in caplog.records[-1].message


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
    with pytest.raises(UserError, match='max_skipped is 2') as error:
        list(itertools.islice(iterator, 5))
    assert not isinstance(error.value, UnreadableImage)
    iterator.close()
    with pytest.raises(UserError, match='max_skipped is 2'):
        source[3]


def test_no_readable_image_stops(folder):
    for i in range(NUM_IMAGES):
        (folder / f'{i}.png').write_bytes(b'')
    with pytest.raises(UserError, match='none of the 10 images can be read'):
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
    with pytest.raises(UnreadableImage, match=r'[349].png'):
        for _ in range(5):
            next(iterator)
            read += 1
    position = iterator.get_state()
    iterator.close()
    whole = batches(source_of(folder), 2, seed=0)
    list(itertools.islice(whole, read))
    assert position == whole.get_state()


def test_what_to_do_is_named():
    with (
        pytest.raises(UserError, match='x.png: no; repair the file or set config.data.on_error=skip'),
        remedy_named(),
    ):
        raise UnreadableImage('x.png: no')


# The check at the start


def check(folder, stop=lambda: False, **settings):
    config = config_of(folder, **settings)
    check_images(make_source(config, 'train'), config, 'train', stop)


def test_few_files_are_all_read_before_anything_else(folder, caplog):
    with pytest.raises(UserError, match=r'3 of the 10 train images .*3.png.*4.png.*9.png.*on_error=skip'):
        check(folder, on_error='stop')
    check(folder)
    assert '3 of the 10 train images' in caplog.text
    with pytest.raises(UserError, match='3 of the 10 train .*max_skipped is 2'):
        check(folder, max_skipped=2)
    (folder / '5.png').write_bytes(b'')
    with pytest.raises(UserError, match='4 of the 10 train .*; and 1 more'):
        check(folder, on_error='stop')


@pytest.mark.parametrize(('limit', 'value'), [('FEW_FILES', 9), ('FEW_BYTES', 500)])
def test_many_files_are_read_where_it_is_asked_for(folder, monkeypatch, limit, value):
    monkeypatch.setattr(checking, limit, value)
    monkeypatch.setattr(checking, 'CHUNK', 4)
    check(folder, on_error='stop')
    with pytest.raises(UserError, match='3 of the 10'):
        check(folder, on_error='stop', check_files=True)
    with pytest.raises(Interrupted, match='after 0 of 10'):
        check(folder, check_files=True, stop=lambda: True)


# Labels


@pytest.mark.parametrize('first', [-1, 0])
def test_labels_are_checked_at_the_start(first):
    """The first always: splits without labels have -1 everywhere."""
    source = ArraySource(np.zeros((3, 4, 4, 1), np.uint8), np.array([first, 0, 2]), ('a', 'b'))
    everything = DataConfig('tfds', check_files=True)
    with pytest.raises(UserError, match='its label is'):
        check_images(source, DataConfig('tfds') if first else everything, 'test', lambda: False)


@pytest.mark.parametrize('transform', [None, lambda image, rng: image])
@pytest.mark.parametrize('label', [-1, 3])
def test_a_label_that_is_no_class_is_never_used(transform, label):
    images = np.zeros((3, 4, 4, 1), np.uint8)
    source = ArraySource(images, np.array([0, 2, label], np.int32), tuple('abc'))
    assert load_batch(source, np.array([0, 1]), transform=transform)['label'].tolist() == [0, 2]
    with pytest.raises(UserError, match=f"image 2: its label is {label}; .* 0 to 2; .*labels='none'"):
        load_batch(source, np.array([1, 2]), transform=transform)
