"""Pictures of one's own as the images of a set."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets.pictures import open_pictures
from diffusion_jax.data.transforms import center_crop
from tests.errors import refused

SIZE = (6, 10)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {'b.png': (6, 10, 3), 'c/a.png': (31, 45, 3), 'a.bmp': (9, 9, 3)}
    images = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    (tmp_path / 'c').mkdir()
    (tmp_path / 'notes.txt').write_text('no picture')
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / name)
    return tmp_path, images


def test_a_folder_in_the_order_of_its_names(folder):
    path, images = folder
    opened = open_pictures(path, SIZE, 3)
    expected = np.stack([center_crop(images[name], SIZE) for name in ('a.bmp', 'b.png', 'c/a.png')])
    np.testing.assert_array_equal(opened.take(np.arange(3)), expected)
    np.testing.assert_array_equal(opened.read_all(), expected)
    np.testing.assert_array_equal(expected[1], images['b.png'])
    assert opened.labels is None and len(opened) == 3


def test_one_file(folder):
    path, images = folder
    opened = open_pictures(path / 'c' / 'a.png', SIZE, 3)
    np.testing.assert_array_equal(opened.read_all(), [center_crop(images['c/a.png'], SIZE)])
    assert open_pictures(path / 'b.png', SIZE, 1).read_all().shape == (1, *SIZE, 1)


def test_an_npz_of_any_size(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 25, 1), np.uint8)
    np.savez(tmp_path / 'a.npz', arr_0=images, arr_1=np.arange(4))
    opened = open_pictures(tmp_path / 'a.npz', SIZE, 1)
    expected = np.stack([center_crop(image, SIZE) for image in images])
    np.testing.assert_array_equal(opened.take(np.array([3, 1])), expected[[3, 1]])
    np.testing.assert_array_equal(opened.labels, range(4))
    np.testing.assert_array_equal(open_pictures(tmp_path / 'a.npz', (20, 25), 1).read_all(), images)


def test_what_holds_no_pictures_is_named(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken.png').write_bytes(b'junk')
    with refused('missing.png', 'no such file'):
        open_pictures(tmp_path / 'missing.png', SIZE, 3)
    with refused('empty', 'no images'):
        open_pictures(tmp_path / 'empty', SIZE, 3)
    with refused('broken.png', 'cannot be read'):
        open_pictures(tmp_path / 'broken.png', SIZE, 3).take(np.arange(1))
