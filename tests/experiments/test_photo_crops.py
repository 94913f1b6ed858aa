"""Crops for testing share no pixel with crops for training."""

import numpy as np
import pytest

pytest.importorskip('skimage')

from photo_crops import PHOTOGRAPHS, SIZE, crops


@pytest.mark.parametrize('name', PHOTOGRAPHS)
def test_the_parts_of_a_photograph_are_apart_and_hold_the_largest_crop(name):
    photograph = PHOTOGRAPHS[name]
    height, width = photograph.load().shape[:2]
    covered = np.zeros((height, width), int)
    for left, top, right, bottom in (photograph.train, photograph.test):
        assert 0 <= left and 0 <= top and right <= width and bottom <= height
        assert min(right - left, bottom - top) >= photograph.sides[1] >= photograph.sides[0]
        covered[top:bottom, left:right] += 1
    assert covered.max() == 1


def test_crops_repeat():
    once, again = (
        [np.asarray(crop) for crop in crops(PHOTOGRAPHS['cat'], PHOTOGRAPHS['cat'].test, 2, rng)]
        for rng in (np.random.default_rng(0), np.random.default_rng(0))
    )
    np.testing.assert_array_equal(once, again)
    assert once[0].shape == (SIZE, SIZE, 3) and np.any(once[0] != once[1])
