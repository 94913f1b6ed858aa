"""Guidance by log-probabilities of clean images, on Gaussian data, where its laws are known.

For a linear log-probability a·x_0 the tilted law p(x_0)·exp(s·a·x_0) is N(m + s·C·a, C), and
∇ log E[exp(s·a·x_0)|x_t] is s·Jᵀ·a with J = ∂x̂_0/∂x_t: guidance through the denoiser is exact at every scale
but for the length of the steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import (
    AscentGuidance,
    ClassifierGuidance,
    Models,
    MonteCarloGuidance,
    ReconstructionGuidance,
)
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.diffusion.schedules import between, make_schedule, with_clean
from tests.diffusion.guidance.calls import GRID, MIXTURE, START
from tests.diffusion.linear_gaussian import LinearGaussian
from tests.diffusion.mixture import affine_map

COVARIANCE = np.array([[0.5, 0.2], [0.2, 0.4]])
DATA = LinearGaussian(np.array([0.3, -0.2]), COVARIANCE, np.array([[1.0, 0.5]]), np.array([0.8]), 0.6)
A = np.array([0.7, -0.4])


def linear(x_0, level):
    return jnp.sum(x_0 * A, axis=(1, 2, 3))


def levels_of(number):
    return with_clean(jax.tree.map(lambda a: a[::-1], make_schedule('linear', 1000, str(number)).level))


def law(guidance, sampler=None, levels=None):
    levels = levels_of(20) if levels is None else levels
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 1 + 2 * len(levels.t))
        denoise = guidance.wrap(DATA.denoiser(variance='fixed_large'), Models(keys=keys))
        offset, columns = jax.jit(
            lambda: affine_map(sampler or DDIM(), denoise, between(levels), 2, draws=1)
        )()
    columns = np.asarray(columns)
    return np.asarray(offset), columns.T @ columns


def propagated(levels, moved):
    """DDIM, η = 0, where `moved` maps alpha, sigma, x̂_0 = slope·x + offset to the new x̂_0; ε̂ follows it."""
    mean, covariance, eye = np.zeros(2), np.eye(2), np.eye(2)
    for k in range(len(levels.t) - 1):
        alpha, sigma, alpha_, sigma_ = *(v[k] for v in levels[1:]), *(v[k + 1] for v in levels[1:])
        slope = alpha * COVARIANCE @ np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * eye)
        P, p = moved(alpha, sigma, slope, DATA.mean - alpha * slope @ DATA.mean)
        F = alpha_ * P + sigma_ / sigma * (eye - alpha * P)
        mean = F @ mean + (alpha_ - sigma_ * alpha / sigma) * p
        covariance = F @ covariance @ F.T
    return mean, covariance


def assert_same_law(ours, derived):
    for got, expected in zip(ours, derived, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


LINEAR = [
    ReconstructionGuidance(1.7, linear),
    MonteCarloGuidance(1.7, linear, 1.0, draws=1),
    MonteCarloGuidance(1.7, linear, 0.3, draws=3),
]


@pytest.mark.parametrize('guidance', LINEAR)
def test_the_law_of_a_linear_log_probability(guidance):
    """The draws around x̂_0 change the value by a constant, and the gradient not at all."""

    def moved(alpha, sigma, slope, offset):
        return slope, offset + 1.7 * sigma**2 / alpha * slope.T @ A

    assert_same_law(law(guidance), propagated(levels_of(20), moved))


@pytest.mark.parametrize(('sampler', 'error'), [(DDIM(), 0.02), (DDIM(1.0), 0.03), (DDPM(), 0.02)])
def test_for_a_linear_log_probability_it_is_the_tilted_law(sampler, error):
    """At scale 1.7, which is not 1, and up to the length of 250 steps."""
    mean, covariance = law(LINEAR[0], sampler, levels_of(250))
    np.testing.assert_allclose(mean, DATA.mean + 1.7 * COVARIANCE @ A, atol=error)
    np.testing.assert_allclose(covariance, COVARIANCE, atol=error)


@pytest.mark.parametrize('steps', [1, 3])
def test_the_law_of_ascent(steps):
    def moved(alpha, sigma, slope, offset):
        precision, toward = DATA.A.T @ DATA.A / DATA.s_y**2, DATA.A.T @ DATA.y / DATA.s_y**2
        for _ in range(steps):
            slope, offset = slope - 0.05 * precision @ slope, offset + 0.05 * (toward - precision @ offset)
        return slope, offset

    ours = law(AscentGuidance(0.05, DATA.likelihood, steps))
    assert_same_law(ours, propagated(levels_of(20), moved))


def test_ascent_is_no_posterior():
    """Mean and variance of what is measured depend on the number of steps; the variance becomes too small."""

    def measured(mean, covariance):
        return [(DATA.A @ mean)[0], (DATA.A @ covariance @ DATA.A.T)[0, 0]]

    np.testing.assert_allclose(measured(*DATA.posterior()), [0.614, 0.248], atol=1e-3)
    for number, expected in ((20, [0.500, 0.202]), (100, [0.559, 0.159]), (500, [0.586, 0.131])):
        found = law(AscentGuidance(0.05, DATA.likelihood), levels=levels_of(number))
        np.testing.assert_allclose(measured(*found), expected, atol=1e-3)


def quadratic(x_0, level):
    return -jnp.sum((x_0 - 0.4) ** 2, axis=(1, 2, 3))


def prediction(guidance, keys, x=START, evaluations=1):
    denoise = guidance.wrap(MIXTURE.denoiser(), Models(keys=keys))
    level, memory = jax.tree.map(lambda a: a[2], GRID.level), denoise.init(x)
    for _ in range(evaluations):
        found, memory = jax.jit(denoise.call)(x, level, memory)
    return found


def test_draws_are_those_of_each_image_and_new_at_every_evaluation():
    guidance, keys = MonteCarloGuidance(1.0, quadratic, 1.0, draws=2), jax.random.split(jax.random.key(0), 2)
    first, again = (prediction(guidance, keys).gradient for _ in range(2))
    np.testing.assert_array_equal(first, again)
    second = prediction(guidance, keys, evaluations=2).gradient
    other = prediction(guidance, keys[::-1]).gradient
    alone = prediction(guidance, keys[1:], START[1:]).gradient
    assert np.abs(first - second).max() > 0.01 and np.abs(first - other).max() > 0.01
    np.testing.assert_allclose(alone, first[1:], rtol=1e-4, atol=1e-6)


def test_one_draw_is_the_gradient_there_and_without_spread_that_at_the_estimate():
    keys = jax.random.split(jax.random.key(0), 2)
    exact = prediction(ReconstructionGuidance(1.3, quadratic), keys)
    none = prediction(MonteCarloGuidance(1.3, quadratic, 0.0, draws=3), keys)
    np.testing.assert_allclose(none.gradient, exact.gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(none.x_0, exact.x_0, rtol=1e-5)


def test_by_default_they_ask_the_classifier_about_clean_images():
    levels = []

    def classifier(x, level):
        levels.append(level)
        return quadratic(x, level)

    for guidance in (MonteCarloGuidance(), AscentGuidance(), ReconstructionGuidance()):
        assert guidance.needs == ('log_prob',)
        denoise = guidance.wrap(
            DATA.denoiser(), Models(log_prob=classifier, keys=jax.random.split(jax.random.key(0), 1))
        )
        x = jnp.ones((1, 1, 1, 2))
        denoise(x, jax.tree.map(lambda a: jnp.float32(a[3]), levels_of(20)), denoise.init(x))
    assert all((level.t, level.alpha, level.sigma) == (0, 1, 0) for level in levels) and len(levels) >= 3
    assert ClassifierGuidance().needs == ('log_prob',)
