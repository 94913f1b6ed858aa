"""A network with EDM's preconditioning, like those of the consistency models: as a model and in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.generation import Generator
from diffusion_jax.sharding import make_mesh
from diffusion_jax.training.objectives import diffusion_objective
from tests.generation.shared import random_params
from tests.tiny import UNET

NETWORK = dataclasses.replace(UNET, out_channels=1)
PROCESS = DiffusionConfig(schedule='edm', prediction='edm', variance='fixed_small')


def model():
    mesh = make_mesh(1, 1, jax.devices()[:1])
    return Generator(NETWORK, PROCESS, {'diffusion': random_params(NETWORK)}, mesh)


def denoised(x, sigma):
    """D(x; sigma) of EDM's table 1, with 1000·c_noise as in the consistency models."""
    total = sigma**2 + 0.25
    t = jnp.full(len(x), 250 * np.log(sigma))
    output = models.apply(NETWORK, random_params(NETWORK), x / np.sqrt(total), t)
    return 0.25 / total * x + 0.5 * sigma / np.sqrt(total) * output


@pytest.mark.parametrize('sigma', [0.002, 0.3, 5.0, 80.0])
def test_the_model_at_a_level(sigma):
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32) * np.hypot(sigma, 0.5)
    np.testing.assert_allclose(model().at(sigma)(x), denoised(x, sigma), rtol=2e-4, atol=2e-4)


def test_heun_on_the_levels_of_the_consistency_models():
    """Their sampler: 5 levels from 80 to 0.002, then 0, corrected to second order except at the end."""
    noise = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    found = model().sample(2, x_T=noise, sampler='heun', respacing='karras:5', clip=False, floats=True)
    sigmas = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 5) ** 7
    x = noise * np.sqrt(1 + 80.0**2)  # x_T is x_0·alpha + sigma·eps
    for here, there in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        slope = (x - denoised(x, here)) / here
        euler = x + (there - here) * slope
        if there:
            euler = x + (there - here) * (slope + (euler - denoised(euler, there)) / there) / 2
        x = np.asarray(euler)
    assert found.evaluations == 9
    np.testing.assert_allclose(found.x_0, x, rtol=1e-3, atol=1e-3 * np.abs(x).max())


def test_training_sees_the_same_input():
    objective, params = diffusion_objective(NETWORK, PROCESS), random_params(NETWORK)
    rng = np.random.default_rng(0)
    x_0, eps = rng.uniform(-1, 1, (2, 8, 8, 1)), rng.standard_normal((2, 8, 8, 1))
    t = np.array([200, 700])
    inputs = {'x_0': jnp.float32(x_0), 'eps': jnp.float32(eps), 't': jnp.int32(t), 'y': jnp.zeros(2, int)}
    loss = objective.losses(params, inputs, None)['loss']
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    for i, sigma in enumerate((low + t / 999 * (high - low)) ** 7):
        error = denoised((x_0 + sigma * eps)[i : i + 1].astype(np.float32), sigma) - x_0[i]
        expected = (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * np.mean(error**2)
        np.testing.assert_allclose(loss[i], expected, rtol=2e-3)
