"""DDPM with additional variance for guidance, on Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import ClassifierGuidance, Models
from diffusion_jax.diffusion.samplers import DDPM, EluCD, sample
from diffusion_jax.diffusion.schedules import float64_transitions, make_schedule
from tests.diffusion.gaussian import Data, loop_moments

DATA = Data(mean=0.1, variance=0.7)
TABLE = float64_transitions(make_schedule('linear', 1000, '40'))
GRID = jax.tree.map(lambda a: a[::-1], TABLE)


def guided(variance, scale=1.0):
    return ClassifierGuidance(scale, DATA.log_prob).wrap(DATA.denoiser(variance=variance), Models())


def law(gamma, variance):
    """Mean and variance of x' = c_0·x̂_0 + c_t·x + (Σ + a_i)·g + √Σ·z, float64."""
    mean, spread, largest, count = 0.0, 1.0, 0.0, len(GRID.mean_x0)
    logs = GRID.log_posterior if variance == 'fixed_small' else GRID.log_large
    for i in range(count):
        alpha, sigma = GRID.level.alpha[i], GRID.level.sigma[i]
        total = alpha**2 * DATA.variance + sigma**2
        gain = alpha * DATA.variance / total
        offset = DATA.mean - gain * alpha * DATA.mean  # x̂_0 = gain·x + offset
        last = i == count - 1
        value = 0.0 if last and variance == 'fixed_small' else np.exp(logs[i])
        largest = max(largest, value)
        weight = value + gamma * largest * np.sin(np.pi * (count - 1 - i) / count)
        pull = weight * gain / (DATA.variance * sigma**2 / total + DATA.likelihood_variance)
        a = GRID.mean_x0[i] * gain + GRID.mean_xt[i] - pull * gain
        b = GRID.mean_x0[i] * offset + pull * (DATA.y - offset)
        mean, spread = a * mean + b, a**2 * spread + (0.0 if last else value)
    return mean, spread


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
@pytest.mark.parametrize('gamma', [0.0, 0.3])
def test_its_law_on_a_gaussian(gamma, variance):
    with jax.enable_x64(True):
        ours = loop_moments(EluCD(gamma), guided(variance), GRID)
        np.testing.assert_allclose(ours, law(gamma, variance), rtol=1e-6)
        if gamma == 0:
            np.testing.assert_allclose(ours, loop_moments(DDPM(), guided(variance), GRID), rtol=1e-12)


def test_its_bias_grows_with_gamma():
    """At scale 1: the posterior has mean .625 and variance .292, DDPM .606 and .322, γ = .3 .792 and .196."""
    found = [law(gamma, 'fixed_large') for gamma in (0.0, 0.3)]
    np.testing.assert_allclose(DATA.given_y(), (0.625, 0.292), atol=1e-3)
    np.testing.assert_allclose(found, [(0.606, 0.322), (0.792, 0.196)], atol=1e-3)


def test_steps_are_counted_through_grids_that_go_up():
    state = EluCD().init(jnp.zeros((2, 1, 1, 1)))._replace(variance=jnp.array([0.1, 0.2]), done=jnp.int32(7))
    again = EluCD().restart(state, jnp.ones((2, 1, 1, 1)))
    assert again.done == 7 and again.variance is state.variance and (again.x == 1).all()


def test_the_largest_variance_is_that_of_each_image():
    """With a learned variance an image does not depend on its batch."""
    v = np.array([-1.0, 1.0]).reshape(2, 1, 1, 1)

    def images(v):
        def predict(x_t, level):
            return DATA.predict(x_t, level)._replace(variance=v + 0 * x_t)

        denoise = plain(predict, variance='learned_range')
        denoise = ClassifierGuidance(2.0, DATA.log_prob).wrap(denoise, Models())
        noise = jax.random.normal(jax.random.key(0), (len(GRID.mean_x0) + 1, 1, 2, 2, 3))
        grid = jax.tree.map(jnp.float32, GRID)
        return sample(EluCD(0.5), denoise, grid, lambda p, i: noise[p] + 0 * v, noise[0] + 0 * v)[0].x

    together = images(v)
    for i in range(2):
        np.testing.assert_allclose(together[i], images(v[i : i + 1])[0], rtol=1e-5, atol=1e-6)
