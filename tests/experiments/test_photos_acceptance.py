"""The script accepts real images as samples and as enlargements, but not wrong labels or blurred images."""

import json

import numpy as np
import photos_acceptance
import pytest
from PIL import Image

from diffusion_jax.images import reduce_images
from diffusion_jax.shards import shard
from diffusion_jax.workdir import write_npz

COLOURS = ((250, 60, 30), (30, 60, 250))  # of two classes: red and blue noise


@pytest.fixture(scope='module')
def images():
    """Noise with the colours of two classes, uint8 [40, 32, 32, 3], and labels."""
    labels = np.arange(40) % 2
    noise = np.random.default_rng(0).uniform(size=(40, 32, 32, 3))
    return (np.asarray(COLOURS)[labels][:, None, None] * noise).astype(np.uint8), labels


def test_samples_with_the_labels_of_real_images_are_accepted_and_others_are_not(images, tmp_path):
    pixels, labels = images
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / 'images' / ('train' if i < 20 else 'test') / 'ab'[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f'{i}.png')
    for run, changed in (('right', labels), ('wrong', 1 - labels)):
        path = shard(tmp_path / run / 'samples' / 'shards', 0, 40).path
        write_npz(path, arr_0=pixels, arr_1=changed)
    assert photos_acceptance.main([str(tmp_path / 'images'), str(tmp_path / 'right')]) == 0
    result = json.loads((tmp_path / 'right' / 'acceptance.json').read_text())
    assert result['label_agreement'] == result['judge_test_accuracy'] == 1
    assert 0 < result['frechet_test'] < result['real_frechet_test']
    assert photos_acceptance.main([str(tmp_path / 'images'), str(tmp_path / 'wrong')]) == 1


def test_the_true_images_meet_the_requirements_and_blurred_ones_do_not(images):
    truth, _ = images
    small = reduce_images(truth, (8, 8))
    blurred = photos_acceptance.bicubic(small, (32, 32))
    result = photos_acceptance.compare(truth, small, {'upsampler': truth[::-1], 'bicubic': blurred})
    assert result['upsampler_gradient_energy'] == pytest.approx(1)
    assert photos_acceptance.missed(result) == [
        f'upsampler_consistency is {result["upsampler_consistency"]:.3g}, not from 0 to 6'
    ]
    noisy = np.clip(truth + np.random.default_rng(1).normal(size=truth.shape), 0, 255).astype(np.uint8)
    result = photos_acceptance.compare(truth, small, {'upsampler': noisy, 'bicubic': blurred})
    assert photos_acceptance.missed(result) == []
    result = photos_acceptance.compare(truth, small, {'upsampler': blurred, 'bicubic': blurred})
    names = [line.split()[0] for line in photos_acceptance.missed(result)]
    assert {'upsampler_gradient_energy', 'upsampler_frechet_over_bicubic'} <= set(names)
