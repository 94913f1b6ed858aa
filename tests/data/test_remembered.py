import numpy as np
import pytest

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import remembered
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.data.transforms import make_transform

SIZE = (6, 9)


class Photographs:
    """Images of several sizes; counts how often each was decoded."""

    class_names, identity = ('a', 'b'), 'x'

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 7

    def __getitem__(self, index):
        self.decoded.append(index)
        shape = (20 + index, 13 + 2 * index, 3)
        image = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
        return {'image': image, 'label': index % 2}


@pytest.mark.parametrize('num_workers', [0, 2])
def test_batches_are_the_same_and_each_image_is_decoded_once(num_workers):
    config = DataConfig('folder', path='x', image_size=SIZE, image_channels=3)
    transform = make_transform(config, flip=True)
    source = Photographs()
    again = remembered.remembered(source, config)
    ours, plain = (
        batches(each, 5, seed=3, transform=transform, num_workers=num_workers)
        for each in (again, Photographs())
    )
    for _ in range(12):
        batch, expected = next(ours), next(plain)
        np.testing.assert_array_equal(batch['image'], expected['image'])
        np.testing.assert_array_equal(batch['label'], expected['label'])
    if num_workers == 0:
        assert sorted(source.decoded) == list(range(7))


def test_what_is_in_memory_or_does_not_fit_is_not_kept(monkeypatch):
    config = DataConfig('folder', path='x', image_size=SIZE, image_channels=3)
    digits, photographs = digits_source('test'), Photographs()
    assert remembered.remembered(digits, config) is digits
    monkeypatch.setattr(remembered, 'LARGEST', 7 * 6 * 9 * 3 - 1)
    assert remembered.remembered(photographs, config) is photographs
