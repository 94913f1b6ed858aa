"""What a diffusion model and an upsampler are trained to do, against the formula by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.diffusion.process import add_noise
from diffusion_jax.diffusion.schedules import row, schedule_of, transitions
from diffusion_jax.training.objectives import diffusion_objective
from tests.tiny import CONDITIONAL_UNET, DIFFUSION, UPSAMPLER

SIZE = 4


def inputs():
    x_0, eps = jax.random.normal(jax.random.key(0), (2, SIZE, 8, 8, 1))
    return {'x_0': x_0, 'eps': eps, 't': jnp.asarray([0, 30, 60, 99]), 'y': jnp.arange(SIZE)}


def random_params(config):
    return jax.tree.map(
        lambda leaf: 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        models.param_shapes(config),
    )


def boxes(x):
    """Means over 2×2 pixels."""
    return x.reshape(SIZE, 4, 2, 4, 2, 1).mean(axis=(2, 4))


@pytest.mark.parametrize(
    ('config', 'low_res_size'), [(CONDITIONAL_UNET, None), (UPSAMPLER, (4, 4))], ids=['classes', 'upsampler']
)
def test_the_network_sees_its_conditioning(config, low_res_size):
    """The mean squared error of eps is that of a call of the network by hand."""
    drawn, params = inputs(), random_params(config)
    values = jax.jit(diffusion_objective(config, DIFFUSION, low_res_size).losses)(params, drawn, None)
    transition = row(transitions(schedule_of(DIFFUSION)), drawn['t'])
    x_t = add_noise(drawn['x_0'], drawn['eps'], transition.level)
    y, low_res = (None, boxes(drawn['x_0'])) if config.low_res else (drawn['y'], None)
    output = models.apply(config, params, x_t, transition.level.t, y, low_res=low_res)
    expected = np.mean((output[..., :1] - drawn['eps']) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(values['mse'], expected, rtol=1e-4)


def test_the_small_image_carries_a_gradient():
    losses, drawn = diffusion_objective(UPSAMPLER, DIFFUSION, (4, 4)).losses, inputs()
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(losses(params, drawn, None)['loss'])))
    kernel = gradient(random_params(UPSAMPLER))['encoder']['block_0']['conv']['kernel']
    noisy, small = np.abs(kernel).max(axis=(0, 1, 3))
    assert noisy > 1e-4 and small > 1e-4
