"""The Gaussian kernels of DDPM and DDIM: their densities, their draws, and the weights that follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import score_shift
from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.process import Gaussian
from diffusion_jax.diffusion.samplers import DDIM, DDPM, ancestral_kernel, ddim_kernel
from diffusion_jax.diffusion.schedules import make_schedule, row, transitions
from tests.diffusion.gaussian import Data
from tests.diffusion.steps import take_step

DATA = Data(mean=0.3, variance=0.25, y=-0.5, likelihood_variance=0.4)
TABLE = transitions(make_schedule('linear', 1000, '25'))
X, NOISE = (jax.random.normal(jax.random.key(seed), (3, 2, 2, 1)) for seed in (0, 1))


def make_kernel(name, x_t, transition, scale=0.0):
    """The guided kernel of an exact denoiser."""
    denoise = classifier_guidance(DATA.denoiser(), DATA.log_prob, scale)
    if name == 'ddim':
        prediction, _ = score_shift(denoise)(x_t, transition.level)
        return ddim_kernel(prediction, x_t, transition, 0.7)
    prediction, _ = denoise(x_t, transition.level)
    return ancestral_kernel(prediction, x_t, transition, name)


KERNELS = pytest.mark.parametrize('name', ['fixed_small', 'fixed_large', 'ddim'])


@pytest.mark.parametrize('shape', [(3, 2, 2, 1), (3, 1, 1, 1), (1, 1, 1, 1)])
def test_log_prob_is_the_normal_density_of_whole_images(shape):
    """A mean and a variance for each pixel, for each image, or for all."""
    mean, log_variance = (jax.random.normal(jax.random.key(seed), shape) for seed in (2, 3))
    ours = Gaussian(mean, jnp.exp(log_variance), log_variance).log_prob(X)
    mean, log_variance = (np.broadcast_to(np.float64(a), X.shape) for a in (mean, log_variance))
    variance = np.exp(log_variance)
    density = np.exp(-((X - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    assert ours.shape == (3,)
    np.testing.assert_allclose(ours, np.log(density).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_draw_scales_the_noise_and_is_the_mean_where_nothing_is_random():
    variance = jnp.array([0.0, 0.25, 4.0])[:, None, None, None]
    drawn = Gaussian(X, variance, jnp.log(jnp.array([9.0, 0.25, 4.0]))[:, None, None, None]).draw(NOISE)
    np.testing.assert_allclose(drawn, X + np.sqrt(variance) * NOISE, rtol=1e-6)
    np.testing.assert_array_equal(drawn[0], X[0])


@KERNELS
@pytest.mark.parametrize('t', [1, 12, 24])
def test_the_density_of_a_kernel_integrates_to_1_with_its_mean_and_variance(name, t):
    transition, x_t = row(TABLE, t), X[:1, :1, :1]
    kernel = make_kernel(name, x_t, transition, scale=2.0)
    mean, variance = float(kernel.mean.squeeze()), float(kernel.variance.squeeze())
    x = np.linspace(mean - 10 * variance**0.5, mean + 10 * variance**0.5, 20_001)
    density = np.exp(np.float64(kernel.log_prob(jnp.asarray(x, jnp.float32)[:, None, None, None])))
    moments = [np.trapezoid(density * (x - mean) ** k, x) for k in range(3)]
    np.testing.assert_allclose(moments, [1, 0, variance], rtol=1e-4, atol=1e-4 * variance**0.5)


@KERNELS
@pytest.mark.parametrize('t', [0, 12])
def test_a_step_is_a_draw_of_its_kernel(name, t):
    transition = row(TABLE, t)
    sampler = DDIM(0.7) if name == 'ddim' else DDPM()
    denoise = classifier_guidance(DATA.denoiser(variance=name), DATA.log_prob, 2.0)
    kernel = make_kernel(name, X, transition, scale=2.0)
    np.testing.assert_allclose(
        take_step(sampler, denoise, X, transition, NOISE), kernel.draw(NOISE), rtol=1e-5, atol=1e-6
    )
    if t == 0:
        np.testing.assert_array_equal(kernel.variance, np.zeros_like(kernel.variance))


@KERNELS
def test_the_ancestral_kernels_of_exact_means_differ_by_the_shift_of_guidance(name):
    """log p − log p' of two normals of one variance, in closed form at the mean of the first."""
    transition = row(TABLE, 12)
    guided, free = (make_kernel(name, X, transition, scale) for scale in (2.0, 0.0))
    ratio = guided.log_prob(guided.mean) - free.log_prob(guided.mean)
    expected = np.sum((guided.mean - free.mean) ** 2 / (2 * free.variance), axis=(1, 2, 3))
    assert np.all(expected > 1e-3)
    np.testing.assert_allclose(ratio, expected, rtol=1e-3)


@KERNELS
def test_the_weight_of_a_guided_step_has_mean_1(name):
    """E[p(x')/p_guided(x')] = 1 for x' ~ p_guided, and the weights make the guided mean the free one."""
    transition, count = row(TABLE, 12), 100_000
    x_t = jnp.full((count, 1, 1, 1), 0.4)
    guided, free = (make_kernel(name, x_t, transition, scale) for scale in (2.0, 0.0))
    x = guided.draw(jax.random.normal(jax.random.key(4), x_t.shape))
    weight = np.exp(np.float64(free.log_prob(x) - guided.log_prob(x)))
    shift = float((guided.mean - free.mean)[0].squeeze()) / float(guided.variance.squeeze()) ** 0.5
    assert abs(shift) > 0.1
    deviation = np.sqrt(np.expm1(shift**2) / count)  # of the mean of log-normal weights
    np.testing.assert_allclose(weight.std(), np.sqrt(np.expm1(shift**2)), rtol=0.05)
    assert abs(weight.mean() - 1) < 4 * deviation
    terms = weight * np.ravel(x - free.mean)
    assert abs(terms.mean()) < 4 * terms.std() / np.sqrt(count)
