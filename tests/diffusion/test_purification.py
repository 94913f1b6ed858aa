"""The gradient of purification, in closed form on Gaussian data and by finite differences on a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import clip
from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.purification import purify
from diffusion_jax.diffusion.samplers import DDIM, DDPM, Heun, sample
from tests.diffusion.mixture import make_mixture, vp_grid

MIXTURE = make_mixture()
GRID = vp_grid([40.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.0])
RNG = np.random.default_rng(0)
TAPE = RNG.standard_normal((8, 2, 2, 2, 3))
IMAGES, WEIGHTS = RNG.uniform(-1, 1, (2, 2, 2, 3)), RNG.standard_normal((2, 2, 2, 3))
SAMPLERS = [DDPM(), DDIM(), DDIM(1.0), Heun()]


def purified(images, sampler, denoise=None, done=3, **how):
    def noise_at(position, i):
        return jnp.asarray(TAPE)[position]

    return purify(sampler, denoise or MIXTURE.denoiser(), GRID, noise_at, images, done, **how)


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_on_gaussian_data_the_gradient_is_the_product_of_the_slopes(sampler):
    """One component: x̂_0 has the slope g = α·v/(α²v + σ²), and eps (1 − α·g)/σ."""
    variance, slope = MIXTURE.stds[1] ** 2, GRID.level.alpha[3]
    for k in range(3, 6):
        a, s, a_, s_ = (v[k] for v in (*GRID.level[1:], *GRID.next[1:]))
        g = a * variance / (a**2 * variance + s**2)
        g_ = a_ * variance / (a_**2 * variance + s_**2)
        if isinstance(sampler, Heun):
            euler = a_ * (1 / a + (s_ / a_ - s / a) * (1 - a * g) / s)
            second = (1 - a_ * g_) / s_ * euler if s_ > 0 else (1 - a * g) / s
            slope *= a_ * (1 / a + (s_ / a_ - s / a) * ((1 - a * g) / s + second) / 2)
        else:
            eta = 1.0 if isinstance(sampler, DDPM) else sampler.eta
            noise = eta * s_ / s * np.sqrt(1 - (a / a_) ** 2)
            slope *= a_ * g + np.sqrt(s_**2 - noise**2) * (1 - a * g) / s
    with jax.enable_x64(True):
        denoise = MIXTURE.only(1).denoiser()
        found = jax.grad(lambda x: jnp.sum(WEIGHTS * purified(x, sampler, denoise)))(jnp.asarray(IMAGES))
    np.testing.assert_allclose(found, slope * WEIGHTS, rtol=1e-9)


@pytest.mark.parametrize('guided', [False, True])
@pytest.mark.parametrize('sampler', SAMPLERS)
def test_the_gradient_is_that_of_finite_differences(sampler, guided):
    with jax.enable_x64(True):
        denoise = MIXTURE.denoiser()
        if guided:
            denoise = classifier_guidance(denoise, MIXTURE.class_log_prob(1), 1.5)

        @jax.jit
        def loss(x):
            return jnp.sum(jnp.sin(purified(x, sampler, denoise)) * WEIGHTS)

        gradient, direction = jax.grad(loss)(jnp.asarray(IMAGES)), jnp.asarray(WEIGHTS[::-1])
        high, low = (loss(IMAGES + h * direction) for h in (1e-5, -1e-5))
        slope = float((high - low) / 2e-5)
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * WEIGHTS[::-1]), slope, rtol=1e-7)
    assert abs(slope) > 1e-3


def test_recomputing_changes_neither_images_nor_gradients():
    denoise = clip(MIXTURE.denoiser())

    def loss(x, remat):
        return jnp.sum(purified(x, DDPM(), denoise, remat=remat) ** 2)

    with jax.enable_x64(True):
        results = [jax.value_and_grad(loss)(jnp.asarray(IMAGES), remat) for remat in (False, True)]
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_it_is_the_tail_of_a_run_with_the_same_draws():
    """From the noised image on, at the positions of the complete grid."""
    with jax.enable_x64(True):

        def noise_at(position, i):
            return jnp.asarray(TAPE)[position]

        level = jax.tree.map(lambda a: a[0], GRID.level)
        x_T = level.alpha * IMAGES + level.sigma * TAPE[0]
        complete = sample(DDPM(), MIXTURE.denoiser(), GRID, noise_at, x_T)[0].x
        np.testing.assert_allclose(purified(IMAGES, DDPM(), done=0), complete, rtol=1e-12)
        tail = jax.tree.map(lambda a: a[3:], GRID)
        x_t = tail.level.alpha[0] * IMAGES + tail.level.sigma[0] * TAPE[0]
        later = sample(DDPM(), MIXTURE.denoiser(), tail, lambda i, j: noise_at(i + 3, j), x_t)[0].x
        np.testing.assert_allclose(purified(IMAGES, DDPM()), later, rtol=1e-12)
