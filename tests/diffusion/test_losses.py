import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.losses import (
    diffusion_loss,
    discretized_gaussian_log_likelihood,
    normal_kl,
    training_target,
    vb_term,
)
from diffusion_jax.diffusion.process import Gaussian, add_noise, predict
from diffusion_jax.diffusion.schedules import make_schedule, row, transitions

TABLE = transitions(make_schedule('cosine', 200))
TRANSITION = row(TABLE, np.array([0, 1, 120]))
SHAPE = (3, 4, 4, 2)
EPS, OUTPUT = (jax.random.normal(jax.random.key(seed), SHAPE) for seed in (0, 1))
RAW_VARIANCE = jax.random.uniform(jax.random.key(2), SHAPE, minval=-1)
X_0 = jnp.round(jax.random.uniform(jax.random.key(3), SHAPE) * 255) / 127.5 - 1
X_T = add_noise(X_0, EPS, TRANSITION.level)


def loss_of(output, loss, kind='eps', variance='learned_range'):
    return diffusion_loss(output, X_0, X_T, EPS, TRANSITION, kind, variance, loss, num_timesteps=200)


@pytest.mark.parametrize('log_scale', [-6.0, -3.0, 0.0])
@pytest.mark.parametrize('mean', [-1.2, 0.0, 0.37])
def test_the_likelihood_of_all_256_pixel_values_sums_to_1(mean, log_scale):
    pixels = jnp.arange(256) / 127.5 - 1
    log_probs = discretized_gaussian_log_likelihood(pixels, mean, log_scale)
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1, rtol=1e-5)


def test_the_likelihood_keeps_its_digits_in_both_tails():
    distance = jnp.linspace(0.05, 0.6, 50)
    right, left = (
        discretized_gaussian_log_likelihood(sign * distance, 0.0, np.log(0.1)) for sign in (1.0, -1.0)
    )
    np.testing.assert_allclose(right, left, rtol=1e-6)
    assert np.all(np.diff(right) < 0) and right[-1] > np.log(1e-12)


def test_normal_kl_is_the_integral():
    p, q = Gaussian(0.3, 0.5, np.log(0.5)), Gaussian(-0.2, 1.5, np.log(1.5))
    x = np.linspace(-12, 12, 200_001)

    def log_density(g):
        return -0.5 * ((x - g.mean) ** 2 / g.variance + g.log_variance + np.log(2 * np.pi))

    integral = np.trapezoid(np.exp(log_density(p)) * (log_density(p) - log_density(q)), x)
    np.testing.assert_allclose(normal_kl(p, q), integral, rtol=1e-6)


def test_the_bound_of_a_perfect_prediction_is_the_decoder_alone():
    prediction = predict(X_0, X_T, TRANSITION, 'x_0')
    vb = vb_term(prediction, X_0, X_T, TRANSITION, 'fixed_small')
    np.testing.assert_allclose(vb[1:], 0, atol=1e-6)
    # The decoder's scale is √β̃ of the second timestep; a pixel's half width 1/255 is that many sigmas.
    sigmas = 1 / 255 / np.exp(0.5 * TABLE.log_posterior[1])
    mass = discretized_gaussian_log_likelihood(0.0, 0.0, np.log(1 / 255 / sigmas))
    middle = np.abs(X_0[0]) < 0.999
    assert middle.all()
    np.testing.assert_allclose(vb[0], -mass / np.log(2), rtol=1e-5)


@pytest.mark.parametrize('kind', ['eps', 'x_0', 'v', 'previous_x', 'edm'])
def test_the_right_output_has_no_error(kind):
    target = training_target(X_0, X_T, EPS, TRANSITION, kind)
    terms = loss_of(target, 'mse', kind, 'fixed_large')
    assert set(terms) == {'loss', 'mse'}
    np.testing.assert_array_equal(terms['loss'], np.zeros(3))


def test_hybrid_teaches_the_mean_by_its_error_and_the_variance_by_the_bound():
    output = jnp.concatenate([OUTPUT, RAW_VARIANCE], axis=-1)
    mean, variance = np.split(jax.grad(lambda o: loss_of(o, 'mse')['loss'].sum())(output), 2, axis=-1)
    simple = jax.grad(lambda o: loss_of(o, 'mse', variance='fixed_large')['loss'].sum())(OUTPUT)
    np.testing.assert_allclose(mean, simple, rtol=1e-5)
    bound = np.split(jax.grad(lambda o: loss_of(o, 'kl')['loss'].sum())(output), 2, axis=-1)
    np.testing.assert_allclose(variance, bound[1], rtol=1e-5)
    assert np.abs(variance).max() > 0 and not np.allclose(bound[0], mean)


def test_rescaled_losses():
    output = jnp.concatenate([OUTPUT, RAW_VARIANCE], axis=-1)
    kl, mse, rescaled = (loss_of(output, loss) for loss in ('kl', 'mse', 'rescaled_mse'))
    np.testing.assert_allclose(loss_of(output, 'rescaled_kl')['loss'], 200 * kl['loss'], rtol=1e-6)
    np.testing.assert_allclose(mse['vb'], kl['loss'], rtol=1e-6)
    np.testing.assert_allclose(mse['loss'], mse['mse'] + mse['vb'], rtol=1e-6)
    np.testing.assert_allclose(rescaled['loss'], mse['mse'] + 0.2 * mse['vb'], rtol=1e-6)
