import numpy as np
import pytest
from PIL import Image

from diffusion_jax.generation.grid import MAX_ROWS, PADDING, WHITE, class_grid, image_grid, save_png


def random_images(count, height, width, channels):
    return np.random.default_rng(0).integers(0, 255, (count, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize('channels', [1, 3])
def test_images_stand_row_after_row(channels):
    images = random_images(5, 3, 4, channels)
    grid = image_grid(images, columns=3, scale=2)
    assert grid.shape == (2 * (6 + PADDING) + PADDING, 3 * (8 + PADDING) + PADDING, channels)
    covered = np.zeros(grid.shape, bool)
    for index, image in enumerate(images):
        top = PADDING + index // 3 * (6 + PADDING)
        left = PADDING + index % 3 * (8 + PADDING)
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


LEVELS = np.arange(1, 13, dtype=np.uint8)[:, None, None, None] * np.ones((1, 48, 48, 1), np.uint8)


def levels(grid):
    """The grey levels of the tiles, row by row."""
    return grid[PADDING :: 48 + PADDING, PADDING :: 48 + PADDING, 0].tolist()


@pytest.mark.parametrize(
    ('labels', 'columns', 'expected'),
    [
        ([0, 1, 2, 0, 1, 2, 0, 1, 1, 0, 1, 1], 3, [[1, 4], [2, 5], [3, 6]]),
        ([0, 1] * 6, 2, [[1, 3], [2, 4]]),
        ([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 2, [[1, 2], [3, 4]]),
        ([7] * 12, 3, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
    ],
    ids=['the smallest class decides', 'as many as columns', 'a class of one image', 'one class'],
)
def test_a_class_is_a_row(labels, columns, expected):
    assert levels(class_grid(LEVELS.__getitem__, np.array(labels), columns, None)) == expected


@pytest.mark.parametrize('names', [(), ('ant', 'bee')])
def test_rows_are_labelled_where_images_are_of_classes(names):
    labels = np.array([0, 1] * 6)
    plain, labelled = (class_grid(LEVELS.__getitem__, labels, 2, each) for each in (None, names))
    assert labelled[:, : -plain.shape[1]].min() < WHITE // 2
    np.testing.assert_array_equal(labelled[:, -plain.shape[1] :], plain)


def test_a_grid_has_at_most_twenty_classes():
    images = np.zeros((60, 48, 48, 1), np.uint8)
    grid = class_grid(images.__getitem__, np.arange(60) % 30, 2, None)
    assert len(grid) == MAX_ROWS * (48 + PADDING) + PADDING
