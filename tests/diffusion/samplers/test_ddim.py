import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import inversion, make_grid
from diffusion_jax.diffusion.samplers import DDIM, DDPM, sample
from diffusion_jax.diffusion.schedules import make_schedule, row, transitions
from tests.diffusion.gaussian import Data
from tests.diffusion.steps import take_step

DATA = Data(mean=0.2, variance=0.3)
X, NOISE = (jax.random.normal(jax.random.key(seed), (50, 4, 4, 1)) for seed in (0, 1))


def test_eta_1_is_the_ancestral_step_with_the_small_variance():
    table = transitions(make_schedule('cosine', 1000, '50'))
    ours, ddpm = (
        take_step(sampler, DATA.denoiser(variance='fixed_small'), X, table, NOISE)
        for sampler in (DDIM(1.0), DDPM())
    )
    np.testing.assert_allclose(ours, ddpm, atol=2e-5)


@pytest.mark.parametrize(('respacing', 'largest'), [('50', 632.4), ('ddim50', 1.564), ('karras:50', 0.3068)])
def test_the_first_levels_decide_how_far_a_gradient_of_1_moves_x(respacing, largest):
    """At η = 1 by β/√(1−β), and DDPM by β̃."""
    grid = make_grid(DiffusionConfig('cosine', 1000), respacing)
    grid = jax.tree.map(lambda values: values[:-1], grid)  # whose noise is 0 at the last level
    x, here, there = X[: len(grid.level.t)], grid.level, grid.next
    denoise = DATA.denoiser(variance='fixed_small')

    def call(x_t, level, memory):
        prediction, memory = denoise(x_t, level, memory)
        return prediction._replace(gradient=jnp.ones_like(x_t)), memory

    guided = denoise._replace(call=call)
    ours, ddpm = (
        (take_step(s, guided, x, grid, x) - take_step(s, denoise, x, grid, x))[:, 0, 0, 0]
        for s in (DDIM(1.0), DDPM())
    )
    beta = 1 - (here.alpha / there.alpha) ** 2
    np.testing.assert_allclose(ours, beta * there.alpha / here.alpha, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ddpm, beta * (there.sigma / here.sigma) ** 2, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ours.max(), largest, rtol=1e-3)


def test_eta_0_uses_no_noise():
    table = transitions(make_schedule('cosine', 1000, '50'))
    still = take_step(DDIM(), DATA.denoiser(), X, table, NOISE)
    np.testing.assert_array_equal(still, take_step(DDIM(), DATA.denoiser(), X, table, -NOISE))


@pytest.mark.parametrize(('name', 'respacing'), [('cosine', '5'), ('linear', '2')])
def test_steps_over_nearly_all_of_the_noise_are_finite(name, respacing):
    """At η = 1 rounding makes 1−ᾱ−σ² negative in a compiled step."""
    table = transitions(make_schedule(name, 1000, respacing))
    step = jax.jit(lambda sampler, x: take_step(sampler, DATA.denoiser(), x, table, x))
    assert np.isfinite(step(DDIM(1.0), X[: len(table.level.t)])).all()


def test_the_last_step_returns_the_predicted_image():
    table = transitions(make_schedule('linear', 1000, '10'))
    last = row(table, jnp.zeros(50, int))
    denoise = DATA.denoiser(variance='fixed_large')
    x_0 = denoise(X, last.level)[0].x_0
    for sampler in (DDIM(1.0), DDPM()):
        np.testing.assert_allclose(take_step(sampler, denoise, X, last, NOISE), x_0, atol=1e-6)


def test_reversed_sampling_comes_back_the_closer_the_more_steps():
    x_0 = 0.2 + np.sqrt(0.3) * X[:2]
    run = functools.partial(sample, DDIM(), DATA.denoiser())

    def no_noise(position, i):
        return jnp.zeros_like(x_0)

    def round_trip(respacing):
        grid = make_grid(DiffusionConfig('linear', 1000), respacing)
        x_T = run(inversion(grid), no_noise, x_0)[0].x
        # The last step leads from the first level to the clean image, which the way up does not contain.
        back = run(jax.tree.map(lambda values: values[:-1], grid), no_noise, x_T)[0].x
        return np.abs(back - x_0).max()

    coarse, fine = round_trip('ddim50'), round_trip('ddim200')
    assert fine < 0.05
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.3)
