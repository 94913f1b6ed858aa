import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.diffusion.losses import training_target
from diffusion_jax.diffusion.process import add_noise, align, marginal, posterior, predict, true_posterior
from diffusion_jax.diffusion.schedules import make_schedule, row, transitions

TABLES = [transitions(make_schedule('linear', 1000)), transitions(make_schedule('cosine', 1000, '50'))]
SHAPE = (2, 2, 3, 3)

examples = given(
    table=st.sampled_from(TABLES),
    place=st.lists(st.floats(0, 0.98), min_size=2, max_size=2),
    seed=st.integers(0, 2**32 - 1),
)


def make_example(table, place, seed):
    """(x_0, eps, x_t, transition): a row of its own for each image."""
    rng = np.random.default_rng(seed)
    x_0, eps = rng.uniform(-1, 1, SHAPE).astype(np.float32), rng.standard_normal(SHAPE, np.float32)
    transition = row(table, (np.array(place) * len(table.level.t)).astype(int))
    return x_0, eps, add_noise(x_0, eps, transition.level), transition


@pytest.mark.parametrize('kind', ['eps', 'x_0', 'v', 'previous_x', 'edm'])
@settings(deadline=None, max_examples=30)
@examples
def test_the_right_output_predicts_the_image_and_the_noise(kind, table, place, seed):
    x_0, eps, x_t, transition = make_example(table, place, seed)
    prediction = predict(training_target(x_0, x_t, eps, transition, kind), x_t, transition, kind)
    # What a division by a small coefficient leaves of float32's seven digits:
    alpha, sigma, mean_x0 = align((transition.level.alpha, transition.level.sigma, transition.mean_x0), x_t)
    scale = mean_x0 if kind == 'previous_x' else 1
    assert np.all(np.abs(prediction.x_0 - x_0) < 3e-6 / np.minimum(alpha, scale))
    assert np.all(np.abs(prediction.eps - eps) < 3e-6 / (sigma * scale))


@settings(deadline=None, max_examples=30)
@examples
def test_the_true_posterior_is_that_of_two_gaussians(table, place, seed):
    """q(x_{t-1}|x_t, x_0) from the precisions of q(x_{t-1}|x_0) and q(x_t|x_{t-1})."""
    x_0, _, x_t, transition = make_example(table, [max(p, 1.01 / len(table.level.t)) for p in place], seed)
    ours, before = true_posterior(x_0, x_t, transition), align(transition.next, x_t)
    ratio, beta = align((transition.level.alpha / transition.next.alpha, jnp.exp(transition.log_beta)), x_t)
    precision = 1 / before.sigma**2 + ratio**2 / beta
    mean = (before.alpha * x_0 / before.sigma**2 + ratio * x_t / beta) / precision
    np.testing.assert_allclose(ours.variance * precision, 1, rtol=2e-3)
    np.testing.assert_allclose(ours.mean, mean, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(jnp.exp(ours.log_variance), ours.variance, rtol=1e-6)


def test_each_image_has_its_own_level():
    x_0, eps, x_t, transition = make_example(TABLES[0], [0.1, 0.9], 0)
    for i in range(2):
        level = jax.tree.map(lambda c, i=i: c[i], transition.level)
        np.testing.assert_array_equal(add_noise(x_0[i], eps[i], level), x_t[i])


def test_the_marginal_is_that_of_add_noise():
    x_0, _, _, transition = make_example(TABLES[0], [0.0, 0.5], 0)
    mean, variance, log_variance = marginal(x_0, transition.level)
    np.testing.assert_array_equal(mean, add_noise(x_0, np.zeros_like(x_0), transition.level))
    np.testing.assert_allclose(np.exp(log_variance), variance, rtol=1e-5)
    np.testing.assert_allclose(np.ravel(variance), 1 - np.ravel(transition.level.alpha) ** 2, atol=1e-6)


def test_the_second_half_of_the_channels_is_the_variance():
    x_0, eps, x_t, transition = make_example(TABLES[0], [0.2, 0.7], 0)
    output = np.concatenate([eps, x_0], axis=-1)
    prediction = predict(output, x_t, transition, 'eps')
    np.testing.assert_array_equal(prediction.eps, eps)
    np.testing.assert_array_equal(prediction.variance, x_0)
    assert predict(eps, x_t, transition, 'eps').variance is None


def test_variances():
    table = TABLES[1]
    x_0, eps, x_t, _ = make_example(table, [0, 0], 0)
    transition = row(table, np.array([0, 20]))

    def log_variance(variance, raw=None):
        prediction = predict(eps, x_t, transition, 'eps')._replace(variance=raw)
        return np.broadcast_to(posterior(prediction, x_t, transition, variance).log_variance, SHAPE)

    small, large = log_variance('fixed_small'), log_variance('fixed_large')
    np.testing.assert_allclose(small[1], table.log_posterior[20])
    np.testing.assert_allclose(large[1], table.log_beta[20])
    np.testing.assert_array_equal(small[0], large[0])
    np.testing.assert_allclose(small[0], table.log_posterior[1], err_msg='no posterior variance at t = 0')
    np.testing.assert_array_equal(log_variance('learned', raw=x_0), x_0)
    ends = [log_variance('learned_range', raw=np.full(SHAPE, v, np.float32)) for v in (-1, 1)]
    np.testing.assert_allclose(ends[0], small, rtol=1e-6)
    np.testing.assert_allclose(ends[1][1], large[1], rtol=1e-6)


def test_only_the_small_variance_vanishes_at_the_last_transition():
    _, eps, x_t, _ = make_example(TABLES[0], [0, 0], 0)
    transition = row(TABLES[0], np.array([0, 1]))
    prediction = predict(eps, x_t, transition, 'eps')
    small = posterior(prediction, x_t, transition, 'fixed_small').variance.ravel()
    large = posterior(prediction, x_t, transition, 'fixed_large').variance.ravel()
    assert small[0] == 0 and small[1] > 0 and np.all(large > 0)


def test_a_previous_x_network_gives_the_mean_itself():
    _, eps, x_t, transition = make_example(TABLES[0], [0.3, 0.6], 0)
    prediction = predict(eps, x_t, transition, 'previous_x')
    clipped = prediction._replace(x_0=np.clip(prediction.x_0, -1, 1))
    np.testing.assert_array_equal(posterior(clipped, x_t, transition, 'fixed_small').mean, eps)
