"""EDM's preconditioning and levels, against its own equations (2206.00364, table 1) in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import level_at, make_grid
from diffusion_jax.diffusion.losses import diffusion_loss, training_target
from diffusion_jax.diffusion.process import (
    Level,
    Transition,
    add_noise,
    network_input,
    predict,
)
from diffusion_jax.diffusion.schedules import make_schedule

SIGMAS = np.array([0.002, 0.05, 0.5, 3.0, 80.0])
SIGMA_DATA = 0.5


def scalings(sigma):
    """c_skip, c_out, c_in, and c_noise as the network of the consistency models sees it."""
    total = sigma**2 + SIGMA_DATA**2
    return (
        SIGMA_DATA**2 / total,
        sigma * SIGMA_DATA / np.sqrt(total),
        1 / np.sqrt(total),
        1000 * 0.25 * np.log(sigma),
    )


def levels(sigma):
    return Level(250 * np.log(sigma), 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2))


def network(x, c_noise):
    """Any function of what the network sees."""
    return np.tanh(x) + 0.001 * c_noise * x**2


@pytest.mark.parametrize('sigma', SIGMAS)
def test_the_denoiser_is_that_of_edm(sigma):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.standard_normal((2, 4, 4, 3)) * np.hypot(sigma, SIGMA_DATA)
        c_skip, c_out, c_in, c_noise = scalings(sigma)
        expected = c_skip * x + c_out * network(c_in * x, c_noise)
        level = levels(sigma)
        x_t = level.alpha * x
        seen = network_input(x_t, level, 'edm')
        np.testing.assert_allclose(seen, c_in * x, rtol=1e-13)
        found = predict(jnp.asarray(network(seen, level.t)), x_t, Transition(level), 'edm')
        np.testing.assert_allclose(found.x_0, expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.eps, (x - expected) / sigma, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('sigma', SIGMAS)
def test_the_loss_is_that_of_edm(sigma):
    """λ(σ)·|D − x_0|² with λ = (σ² + σ_data²)/(σ·σ_data)² (eq. 8); the target has unit variance (eq. 117)."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_0, eps = SIGMA_DATA * rng.standard_normal((2, 64, 64, 3)), rng.standard_normal((2, 64, 64, 3))
        level = jax.tree.map(lambda a: np.full(2, a), levels(sigma))
        c_skip, c_out, c_in, c_noise = scalings(sigma)
        x_t = add_noise(x_0, eps, level)
        transition = Transition(level, level, *5 * [np.zeros(2)])
        target = training_target(x_0, x_t, eps, transition, 'edm')
        np.testing.assert_allclose(target, (x_0 - c_skip * (x_0 + sigma * eps)) / c_out, rtol=1e-9, atol=1e-9)
        assert np.std(target) == pytest.approx(1, abs=0.02)
        output = network(c_in * (x_0 + sigma * eps), c_noise)
        found = diffusion_loss(output, x_0, x_t, eps, transition, 'edm', 'fixed_small', 'mse', 1000)['loss']
        denoised = c_skip * (x_0 + sigma * eps) + c_out * output
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        np.testing.assert_allclose(found, weight * ((denoised - x_0) ** 2).mean((1, 2, 3)), rtol=1e-8)


def test_the_levels_of_the_consistency_models():
    """Their grid of 40 levels from 80 to 0.002, and the times that the network sees at any level."""
    grid = make_grid(DiffusionConfig(schedule='edm', prediction='edm'), 'karras:40')
    ramp = 80 ** (1 / 7) + np.linspace(0, 1, 40) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    np.testing.assert_allclose(grid.level.edm_sigma, ramp**7, rtol=2e-6)
    np.testing.assert_allclose(grid.level.t, 250 * np.log(ramp**7), rtol=1e-6, atol=1e-4)
    schedule = make_schedule('edm', 1000)
    sigma = np.exp(np.linspace(np.log(0.002), np.log(80), 77))
    np.testing.assert_allclose(level_at(schedule, -2 * np.log(sigma)).t, 250 * np.log(sigma), atol=1e-5)
    np.testing.assert_allclose(schedule.level.edm_sigma[[0, -1]], [0.002, 80], rtol=1e-9)
