"""Scales that depend on the noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import (
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Interval,
    Models,
    Ramp,
    Reuse,
    Scheduled,
    innermost,
)
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, START, run

CLASSIFIER = ClassifierGuidance(jnp.array([1.5, 3.0]), MIXTURE.class_log_prob(1))
FREE = ClassifierFreeGuidance(2.0)
MODELS = Models(null=MIXTURE.denoiser(), weak=MIXTURE.only(0).denoiser())
SIGMA = np.asarray(GRID.level.sigma)


def gradients(guidance):
    return run(guidance.wrap(MIXTURE.denoiser(), MODELS))[1].gradient


def at(guidance, level):
    denoise = guidance.wrap(MIXTURE.only(1).denoiser(), MODELS)
    return denoise(START, level, denoise.init(START))[0]


def test_the_gradient_is_multiplied():
    expected = at(CLASSIFIER, level := jax.tree.map(lambda a: a[3], GRID.level)).gradient
    ramp = 0.5 + level.sigma * (3.0 - 0.5)
    np.testing.assert_allclose(at(Ramp(CLASSIFIER, 3.0, 0.5), level).gradient, ramp * expected, rtol=1e-5)
    scheduled = Scheduled(CLASSIFIER, lambda level: level.edm_sigma)
    np.testing.assert_allclose(at(scheduled, level).gradient, level.edm_sigma * expected, rtol=1e-5)


@pytest.mark.parametrize('kind', [ClassifierFreeGuidance, AutoGuidance])
def test_the_scale_of_an_extrapolation_is_multiplied(kind):
    level = jax.tree.map(lambda a: a[3], GRID.level)
    ours = at(Ramp(kind(2.0), 0.0, 3.0), level).x_0
    expected = at(kind(2.0 * 3.0 * (1 - level.sigma)), level).x_0
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_step_is_an_interval():
    step = Scheduled(CLASSIFIER, lambda level: (0.9 <= level.edm_sigma) & (level.edm_sigma < 9.0))
    np.testing.assert_allclose(gradients(step), gradients(Interval(CLASSIFIER, 0.9, 9.0)), rtol=1e-5)


@pytest.mark.parametrize(
    'wrap', [lambda g: Reuse(Ramp(g, 0.5, 2.0), 2), lambda g: Ramp(Reuse(g, 2), 0.5, 2.0)]
)
def test_a_reused_gradient_keeps_the_scale_of_its_level(wrap):
    linear = ClassifierGuidance(1.0, log_prob=lambda x, level: level.t * jnp.sum(x, axis=(1, 2, 3)))
    n = 2 * (np.arange(len(SIGMAS)) // 2)
    expected = (2.0 - 1.5 * SIGMA[n]) * np.asarray(GRID.level.t)[n]
    np.testing.assert_allclose(gradients(wrap(linear))[:, 0, 0, 0, 0], expected, rtol=1e-4)


def test_it_is_like_its_guidance():
    for guidance in (CLASSIFIER, FREE):
        ramp = Ramp(guidance)
        assert ramp.before_clip == guidance.before_clip and ramp.asks_once == guidance.asks_once
        assert ramp.needs == guidance.needs and innermost(ramp) is guidance
