"""Crops and flips."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.transforms import (
    center_crop,
    cover,
    make_transform,
    random_crop,
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


def test_twice_the_size_is_halved_by_means_of_four_pixels():
    image = noise(8, 12, 3)
    means = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(cover(image, (4, 6)) - means).max() <= 1


@settings(max_examples=100)
@given(sides, sides, sides, sides, st.sampled_from([1, 3]))
def test_pixels_are_those_of_pillow_along_one_axis_after_the_other(height, width, h, w, channels):
    """The authors' release with a Pillow before version 13, which took tall images the other way round."""
    image = noise(height, width, channels)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)

    def resize(picture, size, resample):
        return picture.resize((size[0], picture.height), resample).resize(size, resample)

    while picture.height >= 2 * h and picture.width >= 2 * w:
        picture = resize(picture, (picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(h / picture.height, w / picture.width)
    size = (round(picture.width * scale), round(picture.height * scale))
    expected = np.asarray(resize(picture, size, Image.Resampling.BICUBIC)).reshape(size[1], size[0], channels)
    if height <= 1.5 * width:
        whole = picture.resize(size, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(whole).reshape(expected.shape), expected)
    top, left = (size[1] - h) // 2, (size[0] - w) // 2
    for given_ in (image, Image.fromarray(image[..., 0] if channels == 1 else image)):
        np.testing.assert_array_equal(cover(given_, (h, w)), expected)
        np.testing.assert_array_equal(center_crop(given_, (h, w)), expected[top : top + h, left : left + w])
        drawn = random_crop(given_, (h, w), np.random.default_rng(0).integers)
        np.testing.assert_array_equal(drawn, random_crop(image, (h, w), np.random.default_rng(0).integers))


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
    flipped = sum(np.array_equal(outcome, image[:, ::-1]) for outcome in outcomes)
    kept = sum(np.array_equal(outcome, image) for outcome in outcomes)
    assert flipped + kept == 200
    assert flipped == sum(np.random.default_rng(seed).random() < 0.5 for seed in range(200))


def test_digits_stay_as_they_are():
    image = noise(8, 8, 1)
    np.testing.assert_array_equal(
        make_transform(DataConfig('digits'))(image, np.random.default_rng(0)), image
    )
