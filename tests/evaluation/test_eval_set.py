"""The extractor that two sets permit: pixels of small images, or none for statistics of files."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.evaluation.config import EvaluateConfig
from diffusion_jax.evaluation.eval_set import EvalSet, make_extractor, open_eval_set, with_features
from diffusion_jax.evaluation.extractors import FEATURES, pixel_extractor, pixels
from diffusion_jax.evaluation.feature_stats import FeatureStats, of_features
from diffusion_jax.evaluation.frechet import moments
from tests.errors import refused

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 4, 3, 1), np.uint8)
A, B = RNG.normal(size=(2, 40, 5))


@pytest.fixture
def images(tmp_path):
    """Makes sets of images of a shape."""

    def images(name, shape):
        np.savez(tmp_path / f'{name}.npz', np.zeros((4, *shape), np.uint8))
        return EvalSet(name, open_images(tmp_path / f'{name}.npz'))

    return images


def extractor_of(samples, reference):
    return make_extractor(samples, reference, EvaluateConfig(), None, 'the.setting')


def test_grey_images_are_converted_to_rgb_if_the_others_are_rgb(images):
    mixed = extractor_of(images('a', (4, 3, 1)), images('b', (4, 3, 3)))
    rgb = GREY.repeat(3, axis=-1)
    for array in (GREY, rgb):
        np.testing.assert_array_equal(mixed.apply(array)[FEATURES], pixels(rgb))
    grey = extractor_of(images('a', (4, 3, 1)), images('b', (4, 3, 1)))
    np.testing.assert_array_equal(grey.apply(GREY)[FEATURES], pixels(GREY))
    assert grey.name != mixed.name  # their features are kept apart


def test_pixels_are_rows_in_zero_to_one():
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
    features = pixels(array)
    assert features.shape == (2, 12) and features.dtype == np.float32
    np.testing.assert_allclose(features[1], np.arange(12, 24) / 255, rtol=1e-7)
    assert pixels(np.full((1, 1, 1, 3), 255, np.uint8)).tolist() == [[1, 1, 1]]


def test_pixels_are_compared_up_to_32_by_32(images):
    small = images('a', (32, 32, 3))
    assert extractor_of(small, small).name == 'pixels'
    with refused('b', '33×32×3', 'the.setting', 'convert-inception', '.npy'):
        extractor_of(small, images('b', (33, 32, 3)))


def test_pixels_need_images_of_one_size(images):
    with refused('a', '4×3×1', 'b', '3×4×1', 'the.setting'):
        extractor_of(images('a', (4, 3, 1)), images('b', (3, 4, 1)))


def test_a_folder_without_readable_images(tmp_path, images):
    (tmp_path / 'f').mkdir()
    (tmp_path / 'f' / 'a.png').write_bytes(b'no image')
    with refused('f', 'a.png'):
        extractor_of(EvalSet('f', open_images(tmp_path / 'f')), images('b', (4, 3, 1)))


def test_features_of_some_images_of_a_folder_and_of_all_in_an_npz_are_kept(tmp_path):
    images = RNG.integers(0, 256, (9, 4, 3, 3), np.uint8)
    np.savez(tmp_path / 'x.npz', images)
    (tmp_path / 'x').mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / 'x' / f'{i}.png')
    for name, max_rows, count in (('x.npz', 5, 9), ('x', 5, 5), ('x', None, 9)):
        one = EvalSet('x', open_images(tmp_path / name), directory=tmp_path / f'features of {name}')
        stats = with_features(one, pixel_extractor(), lambda: False, max_rows).stats
        assert len(stats.features) == count and stats.num_images == 9
        np.testing.assert_allclose(stats.moments.mean, pixels(images).mean(axis=0, dtype=float))


def test_moments_of_a_file_take_precedence_over_those_of_its_images(tmp_path):
    images = RNG.integers(0, 256, (9, 4, 3, 3), np.uint8)
    np.savez(tmp_path / 'x.npz', images, mu=np.ones(36), sigma=np.eye(36), num_images=100)
    one = open_eval_set(tmp_path / 'x.npz')._replace(directory=tmp_path / 'features')
    stats = with_features(one, pixel_extractor(), lambda: False).stats
    np.testing.assert_array_equal(stats.moments.mean, 1)
    np.testing.assert_array_equal(stats.features, pixels(images))
    assert stats.num_images == 100


def stored(name='x', features=A, extractor=''):
    return EvalSet(name, None, of_features(features)._replace(extractor=extractor))


def test_features_of_different_networks_are_refused(images):
    assert extractor_of(stored(), stored('y')) is None
    with refused('x', '5', 'y', '3'):
        extractor_of(stored(), stored('y', B[:, :3]))
    with refused('x', 'own', 'y', 'other'):
        extractor_of(stored(extractor='own'), stored('y', extractor='other'))
    with refused('x', 'own', 'y', 'other'):
        extractor_of(stored(extractor='own'), stored('y', B[:, :3], extractor='other'))
    spatial = FeatureStats(0, moments(A), moments(A)), FeatureStats(0, moments(B), moments(B[:, :3]))
    with refused('x', '5', 'y', '3'):
        extractor_of(EvalSet('x', None, spatial[0]), EvalSet('y', None, spatial[1]))
    with refused('x', '5', 'the.setting'):
        extractor_of(images('b', (4, 3, 1)), stored())
