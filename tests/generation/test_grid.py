import numpy as np
import pytest
from PIL import Image

from diffusion_jax.generation.grid import PADDING, WHITE, image_grid, save_png


def random_images(count, height, width, channels):
    return np.random.default_rng(0).integers(0, 255, (count, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize('channels', [1, 3])
def test_images_stand_row_after_row(channels):
    images = random_images(5, 3, 4, channels)
    grid = image_grid(images, columns=2, scale=2)
    assert grid.shape == (3 * (6 + PADDING) + PADDING, 2 * (8 + PADDING) + PADDING, channels)
    covered = np.zeros(grid.shape, bool)
    for index, image in enumerate(images):
        top = PADDING + index // 2 * (6 + PADDING)
        left = PADDING + index % 2 * (8 + PADDING)
        tile = np.s_[top : top + 6, left : left + 8]
        np.testing.assert_array_equal(grid[tile], np.kron(image, np.ones((2, 2, 1), np.uint8)))
        covered[tile] = True
    assert np.all(grid[~covered] == WHITE)


@pytest.mark.parametrize(
    ('size', 'tile'), [((8, 8), 48), ((7, 9), 63), ((32, 32), 64), ((64, 48), 48), ((256, 256), 256)]
)
def test_small_images_are_scaled_up(size, tile):
    grid = image_grid(random_images(1, *size, 1), columns=1)
    assert grid.shape[1] - 2 * PADDING == tile


@pytest.mark.parametrize('channels', [1, 3])
def test_row_labels_stand_left_of_the_same_grid(channels):
    images = random_images(6, 8, 8, channels)
    plain = image_grid(images, columns=3)
    labelled = image_grid(images, columns=3, row_labels=['7', 'tree frog'])
    column = labelled[:, : -plain.shape[1]]
    np.testing.assert_array_equal(labelled[:, -plain.shape[1] :], plain)
    half = PADDING // 2 + 48 + PADDING
    ink = [np.sum(part < WHITE // 2) for part in (column[:half], column[half:])]
    assert 0 < ink[0] < ink[1]
    assert np.all(column[:, :2] == WHITE), 'the longest label fits'


@pytest.mark.parametrize(('channels', 'mode'), [(1, 'L'), (3, 'RGB')])
def test_png_comes_back(tmp_path, channels, mode):
    image = random_images(1, 5, 7, channels)[0]
    save_png(tmp_path / 'samples' / 'grid.png', image)
    with Image.open(tmp_path / 'samples' / 'grid.png') as file:
        assert file.mode == mode
        np.testing.assert_array_equal(np.asarray(file).reshape(image.shape), image)
