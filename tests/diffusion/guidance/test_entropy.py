"""Entropy-driven scaling, with the exact posterior of the classes of a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierGuidance, EntropyGuidance, Models
from diffusion_jax.diffusion.guidance.classifier import entropy_factor
from diffusion_jax.diffusion.process import Level
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, START, Calls, run

Y = jnp.array([1, 2])
LEVELS = [Level(*(value[i] for value in GRID.level)) for i in range(len(SIGMAS))]


def logits(x_t, level):
    """log p(k|x_t), up to a constant for each image."""
    return MIXTURE.posteriors(x_t, level)[0] + 7 * x_t[:, 0, 0, :1]


def entropy(x_t, level):
    p = np.exp(np.float64(MIXTURE.posteriors(x_t, level)[0]))
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=1)


def gradient(guidance, level):
    denoise = guidance.wrap(MIXTURE.denoiser(), Models(logits=logits, y=Y))
    return denoise(START, level)[0].gradient


@pytest.mark.parametrize('level', LEVELS[:5])
@pytest.mark.parametrize('scale', [0.75, jnp.array([0.5, 3.0])])
def test_each_image_has_the_gradient_of_the_classifier_times_its_own_factor(level, scale):
    def log_prob(x_t, level):
        return jnp.take_along_axis(MIXTURE.posteriors(x_t, level)[0], Y[:, None], axis=1)[:, 0]

    factor = np.log(3) / np.maximum(entropy(START, level), 0.01)
    expected = gradient(ClassifierGuidance(scale, log_prob), level) * factor[:, None, None, None]
    np.testing.assert_allclose(gradient(EntropyGuidance(scale), level), expected, rtol=2e-3, atol=1e-5)


def test_equal_probabilities_have_the_factor_1_and_sure_ones_the_bound():
    sure = jnp.array([0.0, -40.0, -40.0, -40.0])
    log_probs = jax.nn.log_softmax(jnp.stack([jnp.zeros(4), sure]))
    np.testing.assert_allclose(entropy_factor(log_probs, 0.02), [1, np.log(4) / 0.02], rtol=1e-6)


def test_the_factor_is_not_differentiated():
    slope = jax.grad(lambda x: jnp.sum(entropy_factor(jax.nn.log_softmax(x), 0.01)))(jnp.arange(6.0)[None])
    np.testing.assert_array_equal(slope, 0)


def test_one_evaluation_of_the_classifier_and_of_the_denoiser():
    calls = Calls()
    guidance = EntropyGuidance(0.5, logits=calls.of(logits))
    assert guidance.asks_once and guidance.needs == ('y',) and EntropyGuidance().needs == ('logits', 'y')
    run(guidance.wrap(MIXTURE.denoiser(), Models(y=Y)))
    np.testing.assert_allclose(calls.take(), SIGMAS, rtol=1e-4)
