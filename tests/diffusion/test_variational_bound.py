import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.process import from_x_0
from diffusion_jax.diffusion.samplers.loop import noise_of
from diffusion_jax.diffusion.schedules import make_schedule, transitions
from diffusion_jax.diffusion.variational_bound import bits_per_dimension, prior_term
from tests.diffusion.gaussian import Data

TABLE = transitions(make_schedule('linear', 1000, '20'))
SHAPE = (2, 8, 8, 1)
X_0 = jnp.round(jax.random.uniform(jax.random.key(0), SHAPE) * 255) / 127.5 - 1


def test_one_who_knows_the_image_pays_for_the_prior_and_the_pixels_alone():
    denoise = plain(lambda x_t, level: from_x_0(X_0, x_t, level))
    tape = jax.random.normal(jax.random.key(1), (20, *SHAPE))
    bits = bits_per_dimension(denoise, X_0, TABLE, tape.__getitem__, 'fixed_small')
    np.testing.assert_allclose(bits['vb'][:, 1:], 0, atol=1e-5)
    assert np.all(bits['vb'][:, 0] > 0.1)
    np.testing.assert_allclose(bits['total'], bits['vb'].sum(axis=1) + bits['prior'], rtol=1e-6)
    np.testing.assert_array_equal(bits['x_0_mse'], np.zeros((2, 20)))
    np.testing.assert_allclose(bits['eps_mse'], 0, atol=1e-6)


def test_the_prior_term_is_small_and_grows_with_the_image():
    """½·(ᾱ·x² − ᾱ − log(1−ᾱ)) bits·ln 2 at the last level."""
    alpha_bar = make_schedule('linear', 1000, '20').alpha_bar[-1]
    expected = [0.5 * (alpha_bar * x**2 - alpha_bar - np.log(1 - alpha_bar)) / np.log(2) for x in (0.0, 1.0)]
    x_0 = jnp.stack([jnp.zeros(SHAPE[1:]), jnp.ones(SHAPE[1:])])
    np.testing.assert_allclose(prior_term(x_0, TABLE), expected, atol=1e-7)


def test_the_bound_is_near_the_truth_for_the_exact_denoiser():
    """Gaussian data of standard deviation 0.2: −log p is a density times the width 2/255 of a pixel.

    One draw of noise a transition leaves a few hundredths of a bit.
    """
    data = Data(mean=0.0, variance=0.04)
    x_0 = 0.2 * jax.random.normal(jax.random.key(2), (4, 16, 16, 1))
    x_0 = jnp.round((x_0 + 1) * 127.5) / 127.5 - 1
    keys = jax.random.split(jax.random.key(3), 4)
    table = transitions(make_schedule('linear', 1000))
    bits = jax.jit(
        lambda x_0: bits_per_dimension(
            data.denoiser(), x_0, table, lambda t: noise_of(keys, x_0.shape[1:])(t, 0), 'fixed_large'
        )
    )(x_0)
    density = -0.5 * (x_0**2 / 0.04 + np.log(2 * np.pi * 0.04))
    truth = -np.mean(density + np.log(2 / 255), axis=(1, 2, 3)) / np.log(2)
    gap = bits['total'] - truth
    assert np.all(np.abs(gap) < 0.1) and abs(gap.mean()) < 0.05, gap
