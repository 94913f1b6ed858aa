"""Guidance at the estimate of x_0 without a gradient through the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import CalibratedGuidance, CleanGuidance, Models
from diffusion_jax.diffusion.guidance.clean import calibrated
from diffusion_jax.diffusion.samplers import DDIM
from tests.diffusion.gaussian import Data, loop_moments
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, START, Calls, run
from tests.diffusion.mixture import vp_grid

DATA = Data(mean=0.2, variance=0.8, y=1.0, likelihood_variance=0.5)


def likelihood(x_0, level):
    return -jnp.sum((DATA.y - x_0) ** 2, axis=(1, 2, 3)) / (2 * DATA.likelihood_variance)


def law(levels, scale):
    """Mean and variance, from D̂ = D + σ²/α·s·(y − D)/v in DDIM's step, float64."""
    mean, variance = 0.0, 1.0
    for alpha, sigma, alpha_next, sigma_next in levels:
        gain = alpha * DATA.variance / (alpha**2 * DATA.variance + sigma**2)
        slope, constant = gain, DATA.mean - gain * alpha * DATA.mean
        pull = sigma**2 / alpha * scale / DATA.likelihood_variance
        slope, constant = slope * (1 - pull), constant + pull * (DATA.y - constant)
        a = alpha_next * slope + sigma_next * (1 - alpha * slope) / sigma
        b = (alpha_next - sigma_next * alpha / sigma) * constant
        mean, variance = a * mean + b, a**2 * variance
    return mean, variance


def test_its_law_on_a_gaussian_and_its_bias():
    """At scale .1 the mean is below the posterior's, and the variance above it: .584/.565, not .692/.308."""
    with jax.enable_x64(True):
        grid = vp_grid([*np.geomspace(20, 0.02, 200), 0.0])
        levels = [np.asarray(v) for v in (*grid.level[1:], *grid.next[1:])]
        denoise = CleanGuidance(0.1, likelihood).wrap(DATA.denoiser(), Models())
        ours = loop_moments(DDIM(), denoise, grid)
    np.testing.assert_allclose(ours, law(zip(*levels, strict=True), 0.1), rtol=1e-6)
    np.testing.assert_allclose(DATA.given_y(), (0.692, 0.308), atol=1e-3)
    np.testing.assert_allclose(ours, (0.584, 0.565), atol=1e-3)


def test_the_network_is_not_differentiated():
    @jax.custom_jvp
    def network(x_t):
        return 0.3 * x_t

    @network.defjvp
    def no_derivative(primals, tangents):
        raise AssertionError('differentiated')

    denoise = plain(lambda x_t, level: MIXTURE.predict(network(x_t), level))
    guided = CleanGuidance(2.0, likelihood).wrap(denoise, Models())
    prediction, _ = guided(START, jax.tree.map(lambda a: a[2], GRID.level))
    expected = 2.0 * (DATA.y - prediction.x_0) / DATA.likelihood_variance
    np.testing.assert_allclose(prediction.gradient, expected, rtol=1e-5)


def test_one_evaluation_of_classifier_and_denoiser():
    calls = Calls(), Calls()
    run(CleanGuidance(0.1, calls[0].of(likelihood)).wrap(plain(calls[1].of(MIXTURE.predict)), Models()))
    for each in calls:
        np.testing.assert_allclose(each.take(), SIGMAS, rtol=1e-4)


def test_without_a_function_the_classifier_is_asked_about_clean_images():
    seen = []

    def classifier(x_0, level):
        seen.append((float(level.t), float(level.alpha), float(level.sigma)))
        return jnp.stack([jnp.sum(x_0, (1, 2, 3)), jnp.sum(x_0**2, (1, 2, 3))], axis=1)

    level = jax.tree.map(lambda a: a[2], GRID.level)
    models = Models(
        log_prob=lambda x, level: classifier(x, level)[:, 0], logits=classifier, y=jnp.array([0, 1])
    )
    for guidance, needs in ((CleanGuidance(), ('log_prob',)), (CalibratedGuidance(), ('logits', 'y'))):
        assert guidance.needs == needs and guidance.asks_once
        guidance.wrap(MIXTURE.denoiser(), models)(START, level)
    assert seen == [(0, 1, 0)] * 2


@pytest.mark.parametrize(('tau_1', 'tau_2'), [(1.0, 1.0), (1.0, 0.5), (2.0, 0.0), (0.5, 1.5)])
def test_the_gradient_of_the_calibrated_logits(tau_1, tau_2):
    """∂/∂f_k = τ₁·[k = y] − τ₂·softmax(τ₂·f)_k."""
    logits = np.random.default_rng(0).normal(size=(2, 5)) * 3
    y = np.array([4, 0])
    slope = jax.grad(lambda f: jnp.sum(calibrated(f, y, tau_1, tau_2)))(jnp.float32(logits))
    p = np.exp(tau_2 * logits) / np.exp(tau_2 * logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(slope, tau_1 * np.eye(5)[y] - tau_2 * p, rtol=1e-4, atol=1e-6)
    value = tau_1 * logits[[0, 1], y] - np.log(np.exp(tau_2 * logits).sum(axis=1))
    np.testing.assert_allclose(calibrated(jnp.float32(logits), y, tau_1, tau_2), value, rtol=1e-5, atol=1e-5)
