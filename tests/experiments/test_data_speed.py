"""The comparison of loading speeds: both sides crop to the same pixels, and rates and tables come out."""

import sys

import data_speed
import numpy as np
import pytest
from loading.formats import compare_formats
from loading.sides import authors_crop
from loading.tables import table
from PIL import Image

from diffusion_jax.data.transforms import center_crop


@pytest.mark.parametrize('size', [16, 40, 64])
def test_both_sides_crop_to_the_same_pixels(size):
    image = np.random.default_rng(0).integers(0, 256, (50, 67, 3), np.uint8)
    ours = center_crop(image, (size, size))
    np.testing.assert_array_equal(authors_crop(Image.fromarray(image), size), ours)


def test_a_side_answers_with_its_rate(tmp_path, monkeypatch):
    pytest.importorskip('skimage')
    monkeypatch.setattr(data_speed, 'NUM_IMAGES', 5)
    assert data_speed.write_photographs(tmp_path) > 10_000
    side = data_speed.Side(sys.executable, 'ours', tmp_path)
    rate, cpu_ms = side.measure('jpeg', 16, 1)
    side.close()
    assert rate > 0 and 0 < cpu_ms < 1000
    assert side.versions['pillow'] and side.process.returncode == 0


def test_formats_are_lossless_and_compared():
    images = [np.full((8, 8, 3), value, np.uint8) for value in (3, 200)]
    found = compare_formats(images)
    assert all(row['bytes'] > 0 and row['read_ms'] >= 0 for row in found.values()) and 'PNG' in found


def test_table_divides_the_needs_of_an_accelerator():
    kinds = {'torch': 100.0, 'jpeg': 150.0, 'prepared': 900.0}
    rows = [
        {
            'size': 64,
            'workers': workers,
            'medians': kinds,
            'ratios': {'jpeg': 1.5, 'prepared': 9.0},
            'cpu_ms': {'jpeg': 2.0, 'prepared': 0.1},
        }
        for workers in (0, 1)
    ]
    about = {'machine': 'm', 'date': 'd', 'load_average': [1, 2], 'versions': {}, 'rounds': 5, 'batch': 16}
    text = table(about | {'jpeg_bytes': 70_000, 'rows': rows, 'formats': {}})
    assert '| 64 | 1 | 100 | 150 | 1.50 | 900 | 9.00 |' in text
    assert '| ADM-64 | 300/s · 2.00 ms = 0.60 | 300/s · 0.10 ms = 0.03 |' in text
