"""The judge knows digits, and the metrics of pixels know real images from others."""

import numpy as np
import pytest

from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.evaluation import judge
from diffusion_jax.evaluation.pixels import evaluate_pixels, pixels


@pytest.fixture(scope='module')
def digits():
    return digits_source('train'), digits_source('test')


def test_judge_knows_real_digits():
    assert judge.accuracy_on_real_digits() == pytest.approx(295 / 297)


def test_agreement_is_a_share(digits):
    test = digits[1]
    wrong = (test.labels + 1) % 10
    right = judge.label_agreement(test.images, test.labels)
    half = np.where(np.arange(len(wrong)) % 2, wrong, test.labels)
    assert judge.label_agreement(test.images, wrong) < 0.01
    assert right / 2 - 0.02 < judge.label_agreement(test.images, half) < right / 2 + 0.02


def test_pixels_are_rows_in_zero_to_one():
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
    features = pixels(images)
    assert features.shape == (2, 12) and features.dtype == np.float32
    np.testing.assert_allclose(features[1], np.arange(12, 24) / 255, rtol=1e-7)
    assert pixels(np.full((1, 1, 1, 3), 255, np.uint8)).tolist() == [[1, 1, 1]]


def test_pixel_metrics_prefer_real_images(digits):
    train, test = (source.images for source in digits)
    noise = np.random.default_rng(0).integers(0, 256, test.shape, dtype=np.uint8)
    real, fake = evaluate_pixels(test, train), evaluate_pixels(noise, train)
    assert real['frechet_distance'] < 0.5 < 5 < fake['frechet_distance']
    assert min(real['precision'], real['recall']) > 0.8
    assert fake['precision'] == fake['recall'] == 0
    assert abs(real['kid']) < 0.01 < 0.1 < fake['kid']
    same = evaluate_pixels(train, train)
    assert same.pop('kid') < 0  # unbiased, and no pair of an image with itself
    assert same == pytest.approx({'frechet_distance': 0, 'precision': 1, 'recall': 1})
