"""The order of batches: on any number of hosts, across epochs, and after resuming."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches, epoch
from diffusion_jax.data.sources.array import ArraySource
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError

AUGMENT = make_transform(DataConfig('folder', image_size=(4, 4), flip=True, random_crop=True), augment=True)


def source(size=10):
    """Image i is noise of its own, label i is i."""
    images = np.random.default_rng(0).integers(0, 256, (size, 5, 6, 1), dtype=np.uint8)
    return ArraySource(images, np.arange(size, dtype=np.int32), tuple(map(str, range(size))))


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def labels(iterator, count):
    return np.concatenate([batch['label'] for batch in take(iterator, count)])


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a['image'], b['image'])
        np.testing.assert_array_equal(a['label'], b['label'])


def test_batch_holds_images_with_their_labels():
    data = source()
    for transform in (None, lambda image, rng: image):
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


@settings(deadline=None, max_examples=8)
@given(
    size=st.integers(1, 13),
    num_hosts=st.sampled_from([1, 2, 4]),
    skipped=st.integers(0, 9),
    num_workers=st.sampled_from([0, 2]),
    transform=st.sampled_from([None, AUGMENT]),
)
def test_global_batches_depend_neither_on_hosts_nor_workers_nor_interruption(
    size, num_hosts, skipped, num_workers, transform
):
    data = source(size)
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
    joined = [{k: np.concatenate([part[k] for part in step]) for k in step[0]} for step in zip(*parts, strict=True)]
    assert_same(joined, whole)


def test_the_same_image_is_augmented_anew_each_epoch():
    drawn = take(batches(source(1), 1, seed=0, transform=AUGMENT), 20)
    assert len({batch['image'].tobytes() for batch in drawn}) > 5


def test_hosts_must_divide_the_batch():
    with pytest.raises(UserError, match='batch_size is 6.* 4'):
        batches(source(), 6, seed=0, num_hosts=4)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_epoch_is_one_pass_in_order_with_a_short_end(num_workers):
    data = source(10)
    passed = list(epoch(data, 4, num_workers=num_workers))
    assert [len(batch['label']) for batch in passed] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch['label'] for batch in passed]), np.arange(10))
    np.testing.assert_array_equal(np.concatenate([batch['image'] for batch in passed]), data.images)


def test_epoch_crops_at_the_centre():
    config = DataConfig('folder', image_size=(4, 4), flip=True, random_crop=True)
    (batch,) = epoch(source(3), 8, transform=make_transform(config, augment=False))
    assert batch['image'].shape == (3, 4, 4, 1)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_an_error_in_the_source_arrives(num_workers):
    class Broken(ArraySource):
        def gather(self, indices):
            raise UserError('x.png: cannot be read')

    data = source(4)
    broken = Broken(data.images, data.labels, data.class_names)
    with pytest.raises(UserError, match='x.png'):
        next(batches(broken, 2, seed=0, num_workers=num_workers))
