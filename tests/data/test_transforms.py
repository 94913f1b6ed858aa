"""Crops, flips, scaling, downsampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.transforms import (
    area_downsample,
    center_crop,
    cover,
    make_transform,
    random_crop,
    to_float,
    to_uint8,
)

sides = st.integers(1, 70)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=50)
@given(sides, sides, sides, sides, st.sampled_from([1, 3]), st.integers(0, 99))
def test_crops_have_the_size_asked_for(height, width, h, w, channels, seed):
    image = noise(height, width, channels)
    integers = np.random.default_rng(seed).integers
    for cropped in (center_crop(image, (h, w)), random_crop(image, (h, w), integers)):
        assert cropped.shape == (h, w, channels)
        assert cropped.dtype == np.uint8


@settings(max_examples=50)
@given(sides, sides, sides, sides)
def test_cover_is_the_smallest_that_covers(height, width, h, w):
    covered = cover(noise(height, width, 3), (h, w)).shape[:2]
    assert covered[0] >= h and covered[1] >= w
    assert covered[0] == h or covered[1] == w


def test_center_crop_of_an_image_of_that_size_is_the_image():
    image = noise(8, 12, 3)
    np.testing.assert_array_equal(center_crop(image, (8, 12)), image)


def test_center_crop_takes_the_centre():
    image = np.zeros((4, 10, 1), np.uint8)
    image[:, 3:7] = 200
    assert (center_crop(image, (4, 4)) == 200).all()


def test_random_crop_shows_at_least_four_fifths():
    drawn = []

    def largest(low, high):
        drawn.append((low, high))
        return high - 1

    random_crop(noise(100, 100, 3), (16, 16), largest)
    assert drawn == [(16, 21), (0, 5), (0, 5)]  # ceil(16 / 0.8) = 20, then 20 - 16 = 4 either way


def test_transform_draws_only_when_it_augments():
    config = DataConfig('folder', path='x', image_size=(6, 6), image_channels=3)
    image = noise(9, 13, 3)
    augment, plain = make_transform(config, crop_randomly=True), make_transform(config)
    drawn = [augment(image, np.random.default_rng(seed)).tobytes() for seed in range(8)]
    assert len(set(drawn)) > 1
    assert drawn[3] == augment(image, np.random.default_rng(3)).tobytes()
    for seed in range(4):
        np.testing.assert_array_equal(plain(image, np.random.default_rng(seed)), center_crop(image, (6, 6)))


def test_flip_mirrors_left_and_right_half_of_the_time():
    transform = make_transform(DataConfig('digits'), flip=True)
    image = noise(8, 8, 1)
    outcomes = [transform(image, np.random.default_rng(seed)) for seed in range(200)]
    flipped = [np.array_equal(outcome, image[:, ::-1]) for outcome in outcomes]
    kept = [np.array_equal(outcome, image) for outcome in outcomes]
    assert all(a or b for a, b in zip(flipped, kept, strict=True))
    assert 70 < sum(flipped) < 130


def test_digits_need_no_transform():
    assert make_transform(DataConfig('digits')) is None
    assert make_transform(DataConfig('digits'), crop_randomly=True) is not None


def test_to_float_covers_minus_one_to_one():
    x = to_float(jnp.arange(256, dtype=jnp.uint8))
    assert x.dtype == jnp.float32
    assert (x[0], x[255]) == (-1, 1)
    np.testing.assert_allclose(x, np.arange(256) / 127.5 - 1, atol=1e-7)


def test_to_uint8_truncates_and_clamps():
    x = jnp.array([-5.0, -1.0, -0.9999, 0.0, 0.999, 1.0, 5.0])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 127, 254, 255, 255])
    # Truncation loses a step where rounding falls short; never more.
    every = jnp.arange(256, dtype=jnp.uint8)
    lost = every.astype(int) - to_uint8(to_float(every)).astype(int)
    assert set(lost.tolist()) == {0, 1}


def test_area_downsample_by_a_whole_factor_is_the_mean_of_boxes():
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    boxes = x.reshape(2, 4, 2, 4, 3, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(area_downsample(x, (4, 4)), boxes, atol=1e-6)


@pytest.mark.parametrize('size', [(1, 1), (3, 4), (5, 7)])
def test_area_downsample_by_any_factor_follows_its_definition(size):
    x = np.asarray(jax.random.normal(jax.random.key(0), (1, 5, 7, 2)))
    actual = area_downsample(x, size)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * 5 // size[0], -(-(i + 1) * 5 // size[0]))
            columns = slice(j * 7 // size[1], -(-(j + 1) * 7 // size[1]))
            expected = x[0, rows, columns].mean(axis=(0, 1))
            np.testing.assert_allclose(actual[0, i, j], expected, atol=1e-6)
