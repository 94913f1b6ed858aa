import dataclasses

import jax
import numpy as np
import pytest

from diffusion_jax.diffusion.likelihood import bits_per_dimension
from diffusion_jax.diffusion.samplers.loop import per_sample_noise
from diffusion_jax.diffusion.schedules import schedule_of, transitions
from diffusion_jax.errors import UserError
from diffusion_jax.generation import Generator
from diffusion_jax.generation.networks import Networks, make_denoiser
from diffusion_jax.generation.sampling import sample_keys
from diffusion_jax.images import to_float
from diffusion_jax.sharding import make_mesh
from tests.generation.test_sampling import params
from tests.tiny import CLASSIFIER, DIFFUSION, UNET

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
SETTINGS = {'respacing': '3', 'seed': 7}


@pytest.fixture(scope='module')
def model():
    return Generator(UNET, DIFFUSION, params(), make_mesh(1, 1, jax.devices()[:1]), CLASSIFIER)


def assert_same(terms, expected):
    for name in expected:
        np.testing.assert_allclose(terms[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_terms_are_those_of_the_loop_with_each_images_own_noise(model):
    keys = sample_keys(np.uint32(7), np.array([5, 0, 2, 9]))
    denoise = make_denoiser(Networks(UNET, DIFFUSION), params()['diffusion'], None)
    table = transitions(schedule_of(DIFFUSION, '3'))

    @jax.jit
    def loop(images):
        def noise(t):
            return per_sample_noise(keys, t, (8, 8, 1))

        return bits_per_dimension(denoise, to_float(images), table, noise, DIFFUSION.variance)

    terms = model.bits_per_dimension(IMAGES, index=[5, 0, 2, 9], clip=False, **SETTINGS)
    assert terms['vb'].shape == (4, 3) and terms['total'].shape == (4,)
    assert_same(terms, loop(IMAGES))


def test_an_image_is_judged_the_same_in_any_batch_on_any_devices(model):
    together = model.bits_per_dimension(IMAGES, clip=False, **SETTINGS)
    turned = model.bits_per_dimension(IMAGES[::-1], index=[3, 2, 1, 0], clip=False, **SETTINGS)
    assert_same({name: rows[::-1] for name, rows in turned.items()}, together)
    spread = dataclasses.replace(model, mesh=make_mesh(8, 1))
    assert_same(spread.bits_per_dimension(IMAGES, clip=False, **SETTINGS), together)
    other_noise = model.bits_per_dimension(IMAGES, clip=False, respacing='3', seed=8)
    assert not np.allclose(other_noise['vb'], together['vb'], rtol=1e-3)


def test_clipped_predictions_are_images(model):
    """No two values of [−1, 1] are further apart than 2."""
    assert np.all(model.bits_per_dimension(IMAGES, **SETTINGS)['x_0_mse'] <= 4)
    assert np.any(model.bits_per_dimension(IMAGES, clip=False, **SETTINGS)['x_0_mse'] > 4)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'images': IMAGES[:, :4]}, r'images is uint8 \(4, 4, 8, 1\); it must be uint8 \(4, 8, 8, 1\)'),
        ({'index': [1, 2]}, r'index is int64 \(2,\); it must be int32 \(4,\)'),
        ({'respacing': '101'}, "respacing is '101'"),
        ({'seed': -1}, 'seed is -1'),
        ({'low_res': IMAGES[:, :4, :4]}, 'low_res is of no use here'),
    ],
)
def test_arguments_that_cannot_be(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.bits_per_dimension(**{'images': IMAGES} | SETTINGS | arguments)
