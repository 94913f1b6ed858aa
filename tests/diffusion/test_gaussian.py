"""Samplers against closed forms: with Gaussian data every step is affine and carries moments exactly."""

import functools

import jax
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.diffusion.samplers.loop import noise_of, sample
from diffusion_jax.diffusion.schedules import make_schedule
from tests.diffusion.gaussian import Data, sampled_moments
from tests.diffusion.steps import take_step

LINEAR = DiffusionConfig('linear', 1000)
FULL = make_grid(LINEAR)
DATA = Data(mean=0.3, variance=0.25, y=-0.5, likelihood_variance=0.4)


def parts(data, sampler, scale, eta=0.0):
    variance = 'fixed_small' if sampler == 'ddim' else sampler
    denoise = classifier_guidance(data.denoiser(variance=variance), data.log_prob, scale)
    return DDIM(eta) if sampler == 'ddim' else DDPM(), denoise


def make_step(*args):
    """(x_t, transition, noise) → x_{t-1}."""
    return functools.partial(take_step, *parts(*args))


def exact_moments(data, schedule, sampler, scale, eta=0.0):
    """The same in float64, from the equations of the papers with ᾱ and β alone."""
    alpha_bar, before = schedule.alpha_bar, np.append(1.0, schedule.alpha_bar[:-1])
    mean, variance = 0.0, 1.0
    posterior_variance = schedule.betas * (1 - before) / (1 - alpha_bar)
    for t in range(len(alpha_bar))[::-1]:
        ab, ab_before, beta = alpha_bar[t], before[t], schedule.betas[t]
        total = ab * data.variance + 1 - ab  # of x_t
        # ∇ log p(x_t) = p0 + p1·x_t, and with the classifier's: g0 + g1·x_t
        p1 = -1 / total
        p0 = np.sqrt(ab) * data.mean / total
        gain = np.sqrt(ab) * data.variance / total  # E[x_0|x_t] = mean + gain·(x_t − √ᾱ·mean)
        spread = data.variance * (1 - ab) / total + data.likelihood_variance
        g1 = -scale * gain**2 / spread
        g0 = scale * gain / spread * (data.y - data.mean + gain * np.sqrt(ab) * data.mean)
        if sampler == 'ddim':
            sigma = eta * np.sqrt(posterior_variance[t])
            eps1, eps0 = -np.sqrt(1 - ab) * (p1 + g1), -np.sqrt(1 - ab) * (p0 + g0)
            ratio = np.sqrt(ab_before / ab)
            weight = np.sqrt(1 - ab_before - sigma**2) - ratio * np.sqrt(1 - ab)
            a, c = ratio + weight * eps1, weight * eps0
        else:
            sigma2 = posterior_variance[t] if sampler == 'fixed_small' or t == 0 else beta
            sigma2 = posterior_variance[1] if sampler == 'fixed_large' and t == 0 else sigma2
            a = (1 + beta * p1) / np.sqrt(1 - beta) + sigma2 * g1
            c = beta * p0 / np.sqrt(1 - beta) + sigma2 * g0
            sigma = np.sqrt(sigma2) if t > 0 else 0.0
        mean, variance = a * mean + c, a**2 * variance + sigma**2
    return mean, variance


@pytest.mark.parametrize('scale', [0.0, 1.0, 3.0])
@pytest.mark.parametrize('respacing', ['', '25'])
@pytest.mark.parametrize(
    ('sampler', 'eta'),
    [('fixed_small', None), ('fixed_large', None), ('ddim', 0.0), ('ddim', 0.6), ('ddim', 1.0)],
)
def test_moments_are_those_of_the_equations(sampler, eta, respacing, scale):
    schedule = make_schedule('linear', 1000, respacing)
    ours = sampled_moments(make_step(DATA, sampler, scale, eta), make_grid(LINEAR, respacing))
    np.testing.assert_allclose(ours, exact_moments(DATA, schedule, sampler, scale, eta), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize('sampler', ['fixed_small', 'fixed_large', 'ddim'])
def test_the_limit_is_the_data_without_guidance_and_the_posterior_at_scale_1(sampler):
    unguided = sampled_moments(make_step(DATA, sampler, 0.0), FULL)
    np.testing.assert_allclose(unguided, (DATA.mean, DATA.variance), atol=1e-2)
    guided = sampled_moments(make_step(DATA, sampler, 1.0), FULL)
    np.testing.assert_allclose(guided, DATA.given_y(), atol=1e-2)


def test_guidance_at_other_scales_does_not_sample_the_tilted_distribution():
    """p(x)·p(y|x)² has mean 0.8 and variance 0.2. Tilting and adding noise do not commute."""
    ddim = sampled_moments(make_step(Data(), 'ddim', 2.0), FULL)
    ddpm = sampled_moments(make_step(Data(), 'fixed_large', 2.0), FULL)
    np.testing.assert_allclose(ddim, (0.976, 0.110), atol=5e-4)
    np.testing.assert_allclose(ddpm, (0.889, 0.161), atol=5e-4)


def test_ddim_is_of_first_order_in_the_stride():
    errors = []
    for steps in (25, 50, 100, 200):
        alpha_bar = make_schedule('linear', 1000, f'ddim{steps}').alpha_bar[-1]
        _, total = DATA.marginal(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))
        exact = DATA.variance / total  # the ODE scales x_T − mean by the ratio of the standard deviations
        grid = make_grid(LINEAR, f'ddim{steps}')
        errors.append(abs(sampled_moments(make_step(DATA, 'ddim', 0.0), grid)[1] - exact))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 1.0, atol=0.15)


def test_the_loop_samples_what_the_steps_say():
    grid, (sampler, denoise) = make_grid(LINEAR, '25'), parts(DATA, 'fixed_small', 2.0)
    keys, shape = jax.random.split(jax.random.key(0), 4), (64, 64, 1)
    run = functools.partial(sample, sampler, denoise, grid)
    x_0 = jax.jit(lambda keys: run(noise_of(keys, shape), noise_of(keys, shape)(0, 0))[0].x)(keys)
    mean, variance = sampled_moments(make_step(DATA, 'fixed_small', 2.0), grid)
    standard_error = np.sqrt(variance / x_0.size)
    assert abs(x_0.mean() - mean) < 4 * standard_error
    assert abs(x_0.var() / variance - 1) < 4 * np.sqrt(2 / x_0.size)
