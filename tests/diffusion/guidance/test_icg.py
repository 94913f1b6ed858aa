"""Guidance by a random class, on mixtures whose classes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import ICG, Interval, Models
from diffusion_jax.diffusion.process import Level, from_x_0
from diffusion_jax.diffusion.samplers import DDIM, sample
from tests.diffusion.guidance.calls import MIXTURE, START, run
from tests.diffusion.mixture import vp_grid, vp_levels

CLASSES = len(MIXTURE.weights)


def conditional(y):
    """The exact denoiser of class y, [B]."""

    def predict(x_t, level):
        _, x_0, _ = MIXTURE.posteriors(x_t, level)
        return from_x_0(x_0[jnp.arange(len(y)), y], x_t, level)

    return plain(predict)


def models(seed=0, number=2):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(number))
    return Models(keys=keys, conditional=conditional, num_classes=CLASSES)


def weak_labels(memory, number=300, seed=0):
    """The classes of the weak prediction, read off from it."""
    level = Level(*map(jnp.float32, vp_levels(0.5)))
    x_t = jnp.broadcast_to(START[:1], (number, *START.shape[1:]))
    weak = ICG().weak(models(seed, number))
    prediction, following = weak(x_t, level, jnp.int32(memory))
    assert following == memory + 1
    _, x_0, _ = MIXTURE.posteriors(x_t, level)
    distance = jnp.sum(jnp.abs(x_0 - prediction.x_0[:, None]), axis=(2, 3, 4))
    assert float(distance.min(axis=1).max()) < 1e-4
    return np.asarray(distance.argmin(axis=1))


def test_classes_are_uniform_and_new_for_every_image_and_evaluation():
    first, second = weak_labels(0), weak_labels(1)
    for labels in (first, second):
        expected = len(labels) / CLASSES
        assert (np.abs(np.bincount(labels, minlength=CLASSES) - expected) < 4 * np.sqrt(expected)).all()
    assert abs((first == second).mean() - 1 / CLASSES) < 4 * np.sqrt(2 / 9 / len(first))
    np.testing.assert_array_equal(weak_labels(0, number=7), first[:7])  # whatever the batch
    assert (weak_labels(0, seed=1) != first).any()


@pytest.mark.parametrize(('sigma', 'least', 'most'), [(50.0, 0.0, 1e-3), (0.4, 1.0, 2.0)])
def test_the_average_over_classes_is_the_score_of_their_mixture_at_large_sigma_only(sigma, least, most):
    level = Level(*map(jnp.float32, vp_levels(sigma)))
    x_t = level.alpha * MIXTURE.means[1] + level.sigma * START
    equal = MIXTURE._replace(weights=np.full(CLASSES, 1 / CLASSES))
    average = sum(conditional(jnp.full(2, k))(x_t, level)[0].eps for k in range(CLASSES)) / CLASSES
    difference = float(jnp.abs(average - equal.predict(x_t, level).eps).max())
    assert least <= difference <= most


def test_its_law_between_gaussians_is_guidance_from_their_mean_with_more_variance():
    """Classes N(μ_k, v): x_0 is affine in the sampled μ, with coefficients that the sampler's map has."""
    means, variance, scale, number = jnp.array([-1.0, 0.2, 0.8]), 0.3, 2.0, 4000
    grid = vp_grid([*np.geomspace(20, 0.05, 12), 0.0], np.float32)

    def gaussian(mean):
        def predict(x_t, level):
            center = jnp.reshape(mean(level) if callable(mean) else mean, (-1, 1, 1, 1))
            gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
            return from_x_0(center + gain * (x_t - level.alpha * center), x_t, level)

        return plain(predict)

    def final(denoise, x_T):
        return sample(DDIM(), denoise, grid, lambda position, i: 0 * x_T, x_T)[0].x.ravel()

    levels = jnp.asarray(grid.level.edm_sigma)

    def given(sampled):
        """x_0 from x_T = 0 if the weak model of each step has these means."""
        at = lambda level: sampled[jnp.argmin(jnp.abs(levels - level.edm_sigma))]  # noqa: E731
        guided = ICG(scale).wrap(
            gaussian(means[2]), models(number=1)._replace(conditional=lambda y: gaussian(at), num_classes=3)
        )
        return final(guided, jnp.zeros((1, 1, 1, 1)))[0]

    coefficients = jax.grad(given)(jnp.full(12, means.mean()))
    keys = models(3, number).keys
    chosen = Models(keys=keys, conditional=lambda y: gaussian(means[y]), num_classes=3)
    x_0 = final(ICG(scale).wrap(gaussian(means[2]), chosen), jnp.zeros((number, 1, 1, 1)))
    expected, spread = given(jnp.full(12, means.mean())), jnp.sum(coefficients**2) * means.var()
    assert abs(x_0.mean() - expected) < 4 * np.sqrt(spread / number)
    assert abs(x_0.var() / spread - 1) < 4 * np.sqrt(2 / number)
    assert spread > 0.01


def test_it_counts_its_evaluations_inside_of_an_interval():
    guidance = Interval(ICG(2.0), 0.2, 20.0)
    x_0, _ = run(guidance.wrap(conditional(jnp.array([1, 2])), models()))
    assert np.isfinite(x_0).all()
    np.testing.assert_allclose(
        run(ICG(1.0).wrap(conditional(jnp.array([1, 2])), models()))[0],
        run(conditional(jnp.array([1, 2])))[0],
        atol=1e-5,
    )
