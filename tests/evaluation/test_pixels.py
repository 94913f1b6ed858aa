"""Pixels of small images instead of features."""

import numpy as np
import pytest

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extractors import FEATURES, pixels
from diffusion_jax.evaluation.pixels import image_shape, pixels_of

GREY = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 1), np.uint8)


def test_grey_images_are_taken_as_rgb_where_others_are_rgb():
    found = pixels_of({'a': (4, 3, 1), 'b': (4, 3, 3)}, '--inception', 'x')
    rgb = GREY.repeat(3, axis=-1)
    for images in (GREY, rgb):
        np.testing.assert_array_equal(found.apply(images)[FEATURES], pixels(rgb))
    alone = pixels_of({'a': (4, 3, 1), 'b': (4, 3, 1)}, '--inception', 'x')
    np.testing.assert_array_equal(alone.apply(GREY)[FEATURES], pixels(GREY))
    assert alone.name != found.name  # they are kept in folders of their own


def test_32_by_32_is_the_most():
    pixels_of({'a': (32, 32, 3)}, '--inception', 'x')
    with pytest.raises(UserError, match='b: has images of 33×32×3') as error:
        pixels_of({'a': (32, 32, 3), 'b': (33, 32, 3)}, 'the.setting', 'the last way')
    for way in ('Set the.setting', 'convert-inception', '.pb', '.pth', '.npy', '[N, D]', 'the last way'):
        assert way in str(error.value)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(UserError, match='a: has images of 4×3×1, b of 3×4×1'):
        pixels_of({'a': (4, 3, 1), 'b': (3, 4, 1)}, '--inception', 'x')


def test_the_shape_is_that_of_an_image_that_can_be_used(tmp_path):
    np.savez(tmp_path / 'x.npz', GREY)
    assert image_shape(open_images(tmp_path / 'x.npz')) == (4, 3, 1)
    (tmp_path / 'f').mkdir()
    (tmp_path / 'f' / 'a.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'f: has no image that can be used \(.*a.png'):
        image_shape(open_images(tmp_path / 'f'))
