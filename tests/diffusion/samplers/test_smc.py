"""Sequential Monte Carlo on data whose tilted law is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import add_gradient
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import (
    ClassifierGuidance,
    Interval,
    Models,
    ReconstructionGuidance,
    Reuse,
    Reward,
    classifier_guidance,
)
from diffusion_jax.diffusion.process import Gaussian, posterior
from diffusion_jax.diffusion.samplers import DDPM, SMC, sample
from diffusion_jax.diffusion.samplers.loop import advance, start
from diffusion_jax.diffusion.samplers.smc import propose
from tests.diffusion.gaussian import Data, sampled_moments
from tests.diffusion.populations import draw_populations, moments
from tests.diffusion.steps import take_step

LINEAR = DiffusionConfig('linear', 1000)
DATA = Data()  # N(0, 1) with likelihood variance ½ and y = 1
GRID = make_grid(LINEAR, '40')


def clean_log_prob(x_0, level):
    return jnp.sum(-((DATA.y - x_0) ** 2) / (2 * DATA.likelihood_variance), axis=(1, 2, 3))


def target(scale, grid, variance='fixed_small'):
    """Mean and variance of the chain's law times the likelihood^scale, and log ∫, in float64."""
    step = functools.partial(take_step, DDPM(), DATA.denoiser(variance=variance))
    mean, prior = sampled_moments(step, grid)
    noise = DATA.likelihood_variance / scale
    gain, total = prior / (prior + noise), prior + noise
    log_z = 0.5 * np.log(noise / total) - (DATA.y - mean) ** 2 / (2 * total)
    return mean + gain * (DATA.y - mean), (1 - gain) * prior, log_z


def deviations(sampler, denoise, grid, scale, number=512, **how):
    """How far the moments and log Z are from the target, in standard errors."""
    draw = jax.jit(functools.partial(draw_populations, sampler, denoise, grid, 1, number))
    x_0, log_weight = (np.asarray(a, np.float64) for a in draw(jax.random.key(0)))
    found = moments(x_0, log_weight)
    expected = dict(zip(('mean', 'cov', 'log_Z'), target(scale, grid, **how), strict=True))
    return [float(np.ravel((found[key][0] - expected[key]) / found[key][1])[0]) for key in expected]


SAMPLERS = {
    'always': SMC(16),
    'threshold': SMC(16, threshold=0.5),
    'never': SMC(16, threshold=0.0),
    'multinomial': SMC(16, resampling='multinomial'),
    'max': SMC(16, potential='max', every=20, threshold=0.7),
    'sum': SMC(16, potential='sum', every=20, threshold=0.7),
    'unweighted': SMC(16, unweighted=True),
}


@pytest.mark.parametrize('name', SAMPLERS)
def test_it_samples_the_tilted_law_of_the_chain(name):
    denoise = classifier_guidance(DATA.denoiser(), DATA.log_prob, 2.0)
    assert np.abs(deviations(SAMPLERS[name], denoise, GRID, 2.0)).max() < 4


GUIDANCES = {
    'reward': Reward(2.0, clean_log_prob),
    'reconstruction': ReconstructionGuidance(2.0, clean_log_prob),
    'interval': Interval(ClassifierGuidance(2.0, DATA.log_prob), 0.1, 20.0),
    'reuse': Reuse(ClassifierGuidance(2.0, DATA.log_prob), 3),
}


@pytest.mark.parametrize('name', GUIDANCES)
def test_every_guidance_is_a_proposal(name):
    denoise = GUIDANCES[name].wrap(DATA.denoiser(), Models())
    assert np.abs(deviations(SMC(16, threshold=0.5), denoise, GRID, 2.0)).max() < 4


def test_a_reused_gradient_keeps_its_log_probability():
    denoise = Reuse(ClassifierGuidance(2.0, DATA.log_prob), 2).wrap(DATA.denoiser(), Models())
    level, x = jax.tree.map(lambda a: jnp.asarray(a)[20], GRID.level), noise_at(0, 0)
    first, memory = denoise(x, level, denoise.init(x))
    again, memory = denoise(2 * x, level, memory)
    fresh, _ = denoise(2 * x, level, memory)
    np.testing.assert_allclose(first.log_prob, 2 * DATA.log_prob(x, level), rtol=1e-6)
    np.testing.assert_array_equal(again.log_prob, first.log_prob)
    np.testing.assert_allclose(fresh.log_prob, 2 * DATA.log_prob(2 * x, level), rtol=1e-6)


def test_several_guidances_multiply():
    denoise = classifier_guidance(DATA.denoiser(variance='fixed_large'), DATA.log_prob, 0.5)
    denoise = classifier_guidance(denoise, DATA.log_prob, 1.0)
    denoise = Reward(0.5, clean_log_prob).wrap(denoise, Models())
    denoise = Reuse(ClassifierGuidance(1.0, DATA.log_prob), 2).wrap(denoise, Models())
    found = deviations(SMC(16, threshold=0.5), denoise, GRID, 3.0, variance='fixed_large')
    assert np.abs(found).max() < 4


def test_the_example_of_the_readme():
    """Scale 2: guidance gives .976 and .110 (DDIM) or .889 and .161 (DDPM); the tilted law is N(.8, .2)."""
    grid = make_grid(LINEAR, '250')
    mean, variance, _ = target(2.0, grid)
    np.testing.assert_allclose([mean, variance], [0.8, 0.2], atol=0.006)  # of 250 steps, not of 1,000
    denoise = classifier_guidance(DATA.denoiser(), DATA.log_prob, 2.0)
    draw = jax.jit(functools.partial(draw_populations, SMC(64), denoise, grid, 1, 256))
    x_0, log_weight = (np.asarray(a, np.float64) for a in draw(jax.random.key(0)))
    found = moments(x_0, log_weight)
    np.testing.assert_allclose([found['mean'][0][0], found['cov'][0][0, 0]], [0.8, 0.2], atol=0.015)


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
def test_the_ratio_is_that_of_the_densities(variance):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, noise, gradient = (jnp.asarray(rng.standard_normal((3, 2, 2, 1))) for _ in range(3))
        transition = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64)[5], GRID)
        prediction = DATA.predict(x, transition.level)._replace(gradient=gradient)
        following, ratio = propose(prediction, x, transition, variance, noise)
        model = posterior(prediction, x, transition, variance)
        proposal = Gaussian(model.mean + model.variance * gradient, model.variance, model.log_variance)
        np.testing.assert_allclose(following, proposal.draw(noise), rtol=1e-12)
        np.testing.assert_allclose(
            ratio, model.log_prob(following) - proposal.log_prob(following), rtol=1e-9, atol=1e-12
        )


def noise_at(position, i, batch=6):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), position), i)
    return jax.random.normal(key, (batch, 2, 2, 1))


def test_without_guidance_it_is_ddpm():
    runs = [
        sample(sampler, DATA.denoiser(), GRID, noise_at, noise_at(0, 0))[0] for sampler in (SMC(3), DDPM())
    ]
    np.testing.assert_allclose(runs[0].x, runs[1].x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(runs[0].log_weight, 0)


def test_memory_travels_with_the_particle():
    """A memory that keeps x_T, the path of which is that of the particle."""

    def call(x_t, level, memory):
        start, steps = memory
        prediction = DATA.predict(x_t, level)
        # Weighs by x_T alone, so populations end with one ancestor.
        return prediction._replace(log_prob=30 * start[:, 0, 0, 0]), (start, steps + 1)

    denoise = DATA.denoiser()._replace(
        call=call, init=lambda x_T: (x_T, 0), log_prob=lambda x_0, level: x_0[:, 0, 0, 0]
    )

    def record(state, prediction, transition):
        return state.ancestors, state.ess, state.x, prediction

    sampler = SMC(3)
    state, (ancestors, ess, x, prediction) = sample(
        sampler, denoise, GRID, noise_at, noise_at(0, 0), record=record
    )
    start = np.asarray(noise_at(0, 0))
    best = np.repeat([np.argmax(start[:3, 0, 0, 0]), np.argmax(start[3:, 0, 0, 0])], 3)
    np.testing.assert_array_equal(ancestors[0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(ancestors[1], best)
    assert ess[0].min() == 3 and ess[1].max() < 3
    np.testing.assert_allclose(
        prediction.log_prob[2], 30 * start[np.add(best, [0, 0, 0, 3, 3, 3]), 0, 0, 0], rtol=1e-6
    )
    # What is recorded belongs together: the prediction is that of the state before the step.
    expected = DATA.predict(x[1], jax.tree.map(lambda a: a[1], GRID.level)).x_0
    np.testing.assert_allclose(prediction.x_0[1], expected, rtol=0, atol=1e-4)
    assert len(np.unique(state.x[:3, 0, 0, 0])) == 3


def test_float32_is_close_to_float64_and_a_run_is_continued_after_any_step():
    denoise = classifier_guidance(DATA.denoiser(), DATA.log_prob, 2.0)
    sampler = SMC(3, threshold=0.5)

    @jax.jit
    def run(grid, x_T):
        return sample(sampler, denoise, grid, noise_at, x_T)[0]

    short = run(GRID, noise_at(0, 0))
    carry = start(sampler, denoise, noise_at(0, 0))
    part = jax.jit(lambda carry, done, until: advance(sampler, denoise, GRID, noise_at, carry, done, until))
    continued, _ = part(part(carry, 0, 25), 25, 40)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), continued, short)
    tape = [[np.asarray(noise_at(position, i), np.float64) for i in range(2)] for position in range(41)]
    with jax.enable_x64(True):
        grid = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), GRID)
        long = sample(sampler, denoise, grid, lambda p, i: jnp.asarray(tape)[p, i], jnp.asarray(tape[0][0]))[
            0
        ]
        assert long.x.dtype == long.log_weight.dtype == np.float64
    np.testing.assert_allclose(short.x, long.x, atol=1e-4)
    np.testing.assert_allclose(short.log_weight, long.log_weight, atol=1e-3)
    np.testing.assert_array_equal(short.ancestors, long.ancestors)


def test_populations_are_independent():
    denoise = classifier_guidance(DATA.denoiser(), DATA.log_prob, 2.0)
    both = sample(SMC(3), denoise, GRID, noise_at, noise_at(0, 0))[0]
    second = sample(SMC(3), denoise, GRID, lambda p, i: noise_at(p, i)[3:], noise_at(0, 0)[3:])[0]
    np.testing.assert_allclose(both.x[3:], second.x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both.log_weight[3:], second.log_weight, rtol=1e-4)


def test_equal_weights_at_the_end():
    denoise = classifier_guidance(DATA.denoiser(), DATA.log_prob, 2.0)
    state = sample(SMC(3, threshold=0.0, unweighted=True), denoise, GRID, noise_at, noise_at(0, 0))[0]
    assert np.ptp(state.log_weight[:3]) == np.ptp(state.log_weight[3:]) == 0
    assert state.log_weight[0] != state.log_weight[3]


def test_a_gradient_without_a_log_probability_is_refused():
    def call(x_t, level, memory):
        return add_gradient(DATA.predict(x_t, level), -x_t), memory

    with pytest.raises(TypeError, match='log-probabilities'):
        sample(SMC(3), DATA.denoiser()._replace(call=call), GRID, noise_at, noise_at(0, 0))
