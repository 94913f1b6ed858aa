"""Guidance towards a mixture of classes: its target is a mixture that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import score_shift
from diffusion_jax.diffusion.guidance import ClassifierGuidance, MixtureGuidance, Models
from diffusion_jax.diffusion.guidance.classifier import log_mixture
from diffusion_jax.diffusion.process import Level
from tests.diffusion.guidance.calls import MIXTURE, START
from tests.diffusion.mixture import vp_levels

MODELS = Models(logits=lambda x_t, level: MIXTURE.posteriors(x_t, level)[0])


def guided(weights, x_t, level, scale=1.0):
    return score_shift(MixtureGuidance(weights, scale).wrap(MIXTURE.denoiser(), MODELS))(x_t, level)[0]


@pytest.mark.parametrize('sigma', [0.2, 1.0, 5.0])
@pytest.mark.parametrize('weights', [[1, 1, 1], [2, 0.5, 0], [0, 0, 3], [0.1, 0.9, 0.4]])
def test_at_scale_1_it_is_the_denoiser_of_the_mixture_with_these_weights(sigma, weights):
    """score(x_t) + ∇ log Σ_k w_k·p(k|x_t) is the score of Σ_k w_k·π_k·p(x_t|k)."""
    with jax.enable_x64(True):
        level, x_t = Level(*map(jnp.float64, vp_levels(sigma))), jnp.float64(START)
        weighted = MIXTURE.weights * weights
        kept = np.flatnonzero(weighted)
        target = MIXTURE._replace(weights=weighted / weighted.sum())
        target = type(target)(*(array[kept] for array in target))
        ours, expected = guided(weights, x_t, level), target.predict(x_t, level)
        np.testing.assert_allclose(ours.x_0, expected.x_0, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.eps, expected.eps, rtol=1e-9, atol=1e-9)


def test_every_image_may_have_its_own_weights_and_scale():
    level = Level(*map(jnp.float32, vp_levels(0.7)))
    weights, scales = np.array([[1.0, 0, 2], [0, 1, 1]]), jnp.array([0.5, 2.0])
    together = guided(weights, START, level, scales).x_0
    for i in range(2):
        alone = guided(weights[i], START[i : i + 1], level, scales[i]).x_0[0]
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)


def test_one_class_is_classifier_guidance_whatever_its_weight():
    level = Level(*map(jnp.float32, vp_levels(0.7)))
    one = ClassifierGuidance(3.0, MIXTURE.class_log_prob(1)).wrap(MIXTURE.denoiser(), Models())
    ours = MixtureGuidance(jnp.array([0, 0.2, 0]), 3.0).wrap(MIXTURE.denoiser(), MODELS)
    expected = one(START, level)[0].gradient
    np.testing.assert_allclose(ours(START, level)[0].gradient, expected, rtol=1e-4, atol=1e-5)


def test_without_weight_a_class_has_no_gradient_and_no_nan():
    weights = jnp.array([1.0, 0.0, 0.0])
    slope = jax.grad(lambda logits: log_mixture(logits, weights)[0])(jnp.array([[-90.0, 0.0, -90.0]]))
    np.testing.assert_allclose(slope, [[1, -1, 0]], atol=1e-6)
