import dataclasses

import jax
import numpy as np
import pytest

from diffusion_jax.diffusion.samplers.loop import noise_of
from diffusion_jax.diffusion.schedules import schedule_of, transitions
from diffusion_jax.diffusion.variational_bound import bits_per_dimension
from diffusion_jax.generation.networks import Networks, make_denoiser
from diffusion_jax.generation.sampling import sample_keys
from diffusion_jax.images import to_float
from diffusion_jax.sharding import make_mesh
from tests.errors import refused
from tests.generation.shared import params
from tests.tiny import DIFFUSION, UNET

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
SETTINGS = {'respacing': '3', 'seed': 7}


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
            return noise_of(keys, (8, 8, 1))(t, 0)

        return bits_per_dimension(denoise, to_float(images), table, noise, DIFFUSION.variance)

    terms = model.bits_per_dimension(IMAGES, index=[5, 0, 2, 9], clip=False, **SETTINGS)
    assert terms['vb'].shape == (4, 3) and terms['total'].shape == (4,)
    assert_same(terms, loop(IMAGES))


def test_the_bound_of_an_image_is_the_same_in_any_batch_on_any_devices(model):
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
    ('where', 'arguments'),
    [
        ('images', {'images': IMAGES[:, :4]}),
        ('index', {'index': [1, 2]}),
        ('index', {'index': [0, 1, 2, -1]}),
        ('respacing', {'respacing': '101'}),
        ('respacing', {'respacing': 'karras:3'}),
        ('seed', {'seed': -1}),
        ('low_res', {'low_res': IMAGES[:, :4, :4]}),
    ],
)
def test_arguments_that_are_refused(model, where, arguments):
    with refused(where):
        model.bits_per_dimension(**{'images': IMAGES} | SETTINGS | arguments)
