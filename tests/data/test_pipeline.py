"""The order of batches: on any number of hosts, across epochs, and after resuming."""

import itertools
import json
import threading

import numpy as np
import pytest

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches, epoch, load_batch
from diffusion_jax.data.sources.base import ArraySource
from diffusion_jax.data.transforms import make_transform, uncropped
from diffusion_jax.errors import UserError
from tests.errors import refused

AUGMENT = make_transform(DataConfig('folder', image_size=(4, 4)), crop_randomly=True, flip=True)


def source(size=10):
    """Image i is noise of its own, label i is i."""
    images = np.random.default_rng(0).integers(0, 256, (size, 5, 6, 1), dtype=np.uint8)
    return ArraySource(images, np.arange(size, dtype=np.int32), tuple(map(str, range(size))))


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def labels(iterator, count):
    return np.concatenate([batch['label'] for batch in take(iterator, count)])


def test_batch_holds_images_with_their_labels():
    data = source()
    for transform in (uncropped, lambda image, rng: image):
        batch = next(batches(data, 4, seed=0, transform=transform))
        assert batch['image'].shape == (4, 5, 6, 1) and batch['image'].dtype == np.uint8
        assert batch['label'].shape == (4,) and batch['label'].dtype == np.int32
        np.testing.assert_array_equal(batch['image'], data.images[batch['label']])


def test_each_epoch_is_all_images_in_a_new_order():
    drawn = labels(batches(source(10), 5, seed=0), 6).reshape(3, 10)
    for order in drawn:
        assert sorted(order) == list(range(10))
    assert len({tuple(order) for order in drawn}) == 3


def test_seed_decides_the_order():
    first = labels(batches(source(), 5, seed=0), 4)
    np.testing.assert_array_equal(first, labels(batches(source(), 5, seed=0), 4))
    assert (first != labels(batches(source(), 5, seed=1), 4)).any()


def test_batch_larger_than_the_data_wraps_around():
    drawn = next(batches(source(3), 7, seed=0))['label']
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]


@pytest.mark.parametrize('num_hosts', [1, 4])
@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('transform', [uncropped, AUGMENT], ids=['plain', 'augmented'])
def test_global_batches_depend_neither_on_hosts_nor_workers_nor_interruption(
    num_hosts, num_workers, transform
):
    data, skipped = source(5), 4  # the interruption lies within an epoch
    whole = take(batches(data, 8, seed=3, transform=transform), skipped + 3)[skipped:]

    interrupted = batches(data, 8, seed=3, transform=transform, num_workers=2 - num_workers)
    take(interrupted, skipped)
    position = json.loads(json.dumps(interrupted.get_state()))
    interrupted.close()

    parts = []
    for host in range(num_hosts):
        iterator = batches(
            data, 8, seed=3, transform=transform, num_workers=num_workers, host=host, num_hosts=num_hosts
        )
        iterator.set_state(position)
        parts.append(take(iterator, 3))
        iterator.close()
    for step, expected in zip(zip(*parts, strict=True), whole, strict=True):
        for key in ('image', 'label'):
            np.testing.assert_array_equal(np.concatenate([part[key] for part in step]), expected[key])


def test_augmentation_depends_on_the_seed_and_the_position_alone():
    def images(batch_size, count, seed):
        taken = take(batches(source(1), batch_size, seed=seed, transform=AUGMENT), count)
        return np.concatenate([batch['image'] for batch in taken])

    one_by_one = images(1, 20, 0)
    assert len({image.tobytes() for image in one_by_one}) > 5
    np.testing.assert_array_equal(images(4, 5, 0), one_by_one)
    assert (images(1, 20, 1) != one_by_one).any()


@pytest.mark.parametrize('num_workers', [0, 1])
def test_batches_are_placed_where_they_are_loaded(num_workers):
    iterator = batches(
        source(), 4, seed=0, num_workers=num_workers, place=lambda batch: (threading.get_ident(), batch)
    )
    thread, batch = next(iterator)
    iterator.close()
    assert (thread == threading.get_ident()) == (num_workers == 0)
    np.testing.assert_array_equal(batch['label'], next(batches(source(), 4, seed=0))['label'])


def test_random_transforms_of_load_batch_depend_on_the_index_alone():
    images = np.repeat(source(1).images, 12, axis=0)
    data = ArraySource(images, np.zeros(12, np.int32), ('any',))
    together = load_batch(data, np.arange(12), transform=AUGMENT)['image']
    assert len({image.tobytes() for image in together}) > 5
    order = np.array([7, 2, 11])
    np.testing.assert_array_equal(load_batch(data, order, transform=AUGMENT)['image'], together[order])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_epoch_is_one_pass_in_order_with_a_short_end(num_workers):
    data = source(10)
    passed = list(epoch(data, 4, num_workers=num_workers))
    assert [len(batch['label']) for batch in passed] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch['label'] for batch in passed]), np.arange(10))
    np.testing.assert_array_equal(np.concatenate([batch['image'] for batch in passed]), data.images)


def test_epoch_crops_at_the_centre():
    (batch,) = epoch(source(3), 8, transform=make_transform(DataConfig('folder', image_size=(4, 4))))
    assert batch['image'].shape == (3, 4, 4, 1)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_an_error_in_the_source_arrives(num_workers):
    class Broken(ArraySource):
        def picture(self, index):
            raise UserError('x.png', 'cannot be read')

    data = source(4)
    broken = Broken(data.images, data.labels, data.class_names)
    with refused('x.png', 'cannot be read'):
        next(batches(broken, 2, seed=0, num_workers=num_workers))
