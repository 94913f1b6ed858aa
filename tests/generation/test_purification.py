"""Purification by a model: a differentiable function of its images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.generation import options, purify
from diffusion_jax.images import to_float, to_uint8
from diffusion_jax.sharding import make_mesh
from tests.errors import refused
from tests.generation.shared import closeness, make_model, quiet_params
from tests.tiny import DIFFUSION

SIGMAS = options.check_respacing(DIFFUSION, '5').level.edm_sigma
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
IMAGES = np.asarray(to_float(PIXELS))
HOW = {'start': float(SIGMAS[2]), 'respacing': '5'}


@pytest.fixture(scope='module')
def model():
    return make_model(tree=quiet_params(), classifier=None).unguided()


def test_it_is_sampling_from_noised_images(model):
    expected = model.sample(3, images=PIXELS, start=HOW['start'], respacing='5', floats=True).x_0
    np.testing.assert_allclose(model.purify(IMAGES, **HOW), expected, atol=1e-4)
    assert closeness(to_uint8(model.purify(PIXELS, **HOW)), to_uint8(expected)) <= 1


def test_the_gradient_is_that_of_differences(model):
    direction = np.sign(np.random.default_rng(1).standard_normal(IMAGES.shape))

    @jax.jit
    def loss(x):
        return jnp.mean(jnp.sin(2 * model.purify(x, clip=False, **HOW)))

    gradient = jax.grad(loss)(IMAGES)
    high, low = (loss(IMAGES + h * direction) for h in (0.05, -0.05))
    assert np.abs(gradient).max() > 1e-4
    np.testing.assert_allclose(np.sum(gradient * direction), (high - low) / 0.1, rtol=0.05)


def test_an_image_depends_on_seed_and_index_alone(model):
    together = model.purify(IMAGES, **HOW)
    np.testing.assert_allclose(model.purify(IMAGES[1:], first=1, **HOW), together[1:], atol=1e-4)
    assert np.abs(model.purify(IMAGES, seed=1, **HOW) - together).max() > 0.01


def test_on_several_devices_padding_is_removed(model):
    spread = dataclasses.replace(model, mesh=make_mesh(8, 1))
    found = spread.purify(IMAGES, **HOW)
    assert found.shape == IMAGES.shape
    np.testing.assert_allclose(found, model.purify(IMAGES, **HOW), atol=1e-3)


def test_as_a_function_of_networks(model):
    request = model.request(3, respacing='5')
    found = jax.jit(lambda x: purify(model.networks, model.params, request, x, done=2))(IMAGES)
    np.testing.assert_allclose(found, model.purify(IMAGES, **HOW), atol=1e-4)


@pytest.mark.parametrize(
    ('where', 'arguments'),
    [
        ('images', {'images': IMAGES[0]}),
        ('images', {'images': np.zeros((3, 9, 9, 1))}),
        ('images', {'images': np.full((3, 8, 8, 1), np.nan)}),
        ('images', {'images': np.full((3, 8, 8, 1), 200.0)}),
        ('start', {'start': SIGMAS[-1] / 2}),
        ('start', {'start': 'low'}),
        ('x_T', {'x_T': IMAGES}),
        ('seed', {'seed': -1}),
        ('respacing', {'respacing': 'x'}),
    ],
)
def test_arguments_that_are_refused(model, where, arguments):
    with refused(where):
        model.purify(**{'images': IMAGES} | HOW | arguments)


def test_a_grid_that_travels_back_is_not_inverted(model):
    with refused('respacing', 'travel'):
        model.invert(PIXELS, respacing='travel:5/1,2')
    assert np.isfinite(model.purify(IMAGES, start=HOW['start'], respacing='travel:5/1,2')).all()
