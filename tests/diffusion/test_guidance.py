import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import clip, plain, score_shift
from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.process import Transition, add_noise, predict
from diffusion_jax.diffusion.schedules import make_schedule, row, transitions

TABLE = transitions(make_schedule('linear', 1000, '50'))
LEVEL = row(TABLE, np.array([10, 30])).level
X_T, EPS = (jax.random.normal(jax.random.key(seed), (2, 4, 4, 3)) for seed in (0, 1))


@plain
def denoise(x_t, level):
    return predict(jnp.concatenate([EPS, x_t], axis=-1), x_t, Transition(level), 'eps')


def prediction_of(denoise):
    return denoise(X_T, LEVEL)[0]


def log_prob(x_t, level):
    """Its gradient is −t·x_t."""
    return -0.5 * level.t * jnp.sum(x_t**2, axis=(1, 2, 3))


def test_clip_derives_eps_from_the_clamped_image():
    before, after = prediction_of(denoise), prediction_of(clip(denoise))
    np.testing.assert_array_equal(after.x_0, np.clip(before.x_0, -1, 1))
    assert np.abs(before.x_0).max() > 1
    np.testing.assert_allclose(add_noise(after.x_0, after.eps, LEVEL), X_T, atol=1e-5)
    np.testing.assert_array_equal(after.variance, before.variance)


def test_guidance_adds_the_scaled_gradient_at_x_t_and_changes_nothing_else():
    scale = jnp.array([0.5, 2.0])
    before = prediction_of(denoise)
    after = prediction_of(classifier_guidance(denoise, log_prob, scale))
    weight = (scale * LEVEL.t)[:, None, None, None]
    np.testing.assert_allclose(after.gradient, -weight * X_T, rtol=1e-6)
    np.testing.assert_allclose(after.log_prob, scale * log_prob(X_T, LEVEL), rtol=1e-6)
    for a, b in zip(after._replace(gradient=None, log_prob=None), before, strict=True):
        assert a is b is None or np.array_equal(a, b)


def test_guidance_by_two_classifiers_adds():
    once = classifier_guidance(denoise, log_prob, 3.0)
    twice = classifier_guidance(classifier_guidance(denoise, log_prob, 1.0), log_prob, 2.0)
    np.testing.assert_allclose(prediction_of(twice).gradient, prediction_of(once).gradient, rtol=1e-6)
    np.testing.assert_allclose(prediction_of(twice).log_prob, prediction_of(once).log_prob, rtol=1e-6)
    np.testing.assert_allclose(twice.log_prob(X_T, LEVEL), once.log_prob(X_T, LEVEL), rtol=1e-6)


def test_score_shift_applies_the_gradient_once():
    guided = classifier_guidance(denoise, log_prob, 1e-3)
    shifted = prediction_of(score_shift(guided))
    gradient = prediction_of(guided).gradient
    sigma = LEVEL.sigma[:, None, None, None]
    np.testing.assert_allclose(shifted.eps, EPS - sigma * gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(add_noise(shifted.x_0, shifted.eps, LEVEL), X_T, atol=1e-5)
    assert shifted.gradient is None
    again = prediction_of(score_shift(score_shift(guided)))
    np.testing.assert_array_equal(again.eps, shifted.eps)


def test_scale_0_shifts_nothing():
    ours = prediction_of(score_shift(classifier_guidance(denoise, log_prob, 0.0)))
    expected = prediction_of(denoise)
    np.testing.assert_array_equal(ours.eps, expected.eps)
    np.testing.assert_array_equal(ours.x_0, expected.x_0)


@pytest.mark.parametrize('scale', [1.0, 10.0])
def test_the_guided_image_is_not_clamped_again(scale):
    shifted = prediction_of(score_shift(classifier_guidance(clip(denoise), log_prob, scale)))
    assert np.abs(shifted.x_0).max() > 1
