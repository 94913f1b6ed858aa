"""The picture has a row for each class, and an enlargement is that of the sample in its column."""

import numpy as np
import photos_picture

from diffusion_jax.generation.grid import PADDING


def test_enlargements_stand_beside_their_samples():
    labels = np.arange(14) % 2
    values = np.arange(14, dtype=np.uint8)[:, None, None, None]
    small, large = np.broadcast_to(values, (14, 8, 8, 3)), np.broadcast_to(values, (14, 32, 32, 3))
    drawn = photos_picture.picture(small, large, labels, ('even', 'odd'))
    tile = 32 + PADDING
    tiles = drawn[:, -12 * tile - 2 * PADDING :]
    rows = tiles[PADDING + 16 :: tile, PADDING + 16 :, 0][:2]
    columns = [i * tile for i in range(6)] + [6 * tile + PADDING + i * tile for i in range(6)]
    np.testing.assert_array_equal(rows[:, columns], [2 * [0, 2, 4, 6, 8, 10], 2 * [1, 3, 5, 7, 9, 11]])
