import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.grids import level_at, make_grid
from diffusion_jax.diffusion.guidance import ClassifierGuidance, Models, Reuse, classifier_guidance
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import DDIM, DDPM, DPMSolverPP2M, Heun, Image, Sampler, sample
from diffusion_jax.diffusion.samplers.loop import advance, evaluations, noise_of, start
from diffusion_jax.diffusion.schedules import between, make_schedule, to_clean
from tests.diffusion.gaussian import Data, loop_moments

LINEAR = DiffusionConfig('linear', 1000)
GRID = make_grid(LINEAR, 'ddim5')
KEYS = jax.random.split(jax.random.key(0), 4)
SHAPE = (4, 4, 1)
X_T = noise_of(KEYS, SHAPE)(0, 0)
NOISE_AT = noise_of(KEYS, SHAPE)
DATA = Data(mean=0.3, variance=0.25, y=-0.5, likelihood_variance=0.4)
SAMPLERS = [DDPM(), DDIM(0.5), Heun(s_churn=2.0), DPMSolverPP2M()]
EACH_SAMPLER = pytest.mark.parametrize('sampler', SAMPLERS, ids=lambda sampler: type(sampler).__name__)


def guided(scale=1.0):
    return classifier_guidance(DATA.denoiser(), DATA.log_prob, scale)


def with_reuse():
    """A guided denoiser that has a memory."""
    return Reuse(ClassifierGuidance(1.0, DATA.log_prob), 2).wrap(DATA.denoiser(), Models())


def grid_at(log_snr):
    """A grid over the levels of these log-SNRs and to the clean image; where they fall, noise is added."""
    level = level_at(make_schedule('linear', 1000), np.asarray(log_snr, np.float64))
    return jax.tree.map(lambda a: a if a.dtype == bool else np.float32(a), to_clean(level))


class Sum(Sampler):
    """x/2 + t + noise."""

    def step(self, denoise, state, memory, transition, noise):
        assert transition.level.t.shape == ()
        return Image(0.5 * state.x + transition.level.t + noise(0)), memory


def test_rows_come_from_the_noisiest_on_with_the_noise_of_their_position():
    expected = X_T
    for position, t in enumerate([800, 600, 400, 200, 0], start=1):
        expected = 0.5 * expected + t + NOISE_AT(position, 0)
    state, records = sample(Sum(), DATA.denoiser(), GRID, NOISE_AT, X_T)
    np.testing.assert_allclose(state.x, expected, rtol=1e-6)
    assert records is None


def test_an_image_depends_on_its_own_key_alone():
    @jax.jit
    def run(keys):
        noise_at = noise_of(keys, SHAPE)
        return sample(DDIM(1.0), DATA.denoiser(), GRID, noise_at, noise_at(0, 0))[0].x

    together = run(KEYS)
    alone = run(KEYS[2:3])
    np.testing.assert_allclose(alone[0], together[2], atol=1e-6)
    assert not np.allclose(together[0], together[1])


@EACH_SAMPLER
def test_parts_of_the_loop_are_the_loop(sampler):
    """The state of the sampler and the memory of the denoiser pass from part to part."""
    denoise = with_reuse()
    whole = jax.jit(lambda x: sample(sampler, denoise, GRID, NOISE_AT, x)[0])(X_T)
    part = jax.jit(functools.partial(advance, sampler, denoise, GRID, NOISE_AT))
    carry = start(sampler, denoise, X_T)
    for done, until in ((0, 2), (2, 2), (2, 5)):
        carry = part(carry, done, until)
    for ours, expected in zip(jax.tree.leaves(carry[0]), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, expected)


@EACH_SAMPLER
def test_a_record_has_the_first_prediction_of_each_step_before_its_gradient_is_applied(sampler):
    def record(state, prediction, transition):
        return state.x, prediction, transition.level

    run = functools.partial(sample, sampler, guided(), GRID, NOISE_AT)
    state, (x, prediction, level) = jax.jit(functools.partial(run, record=record))(X_T)
    np.testing.assert_allclose(state.x, jax.jit(run)(X_T)[0].x, atol=1e-6)
    np.testing.assert_array_equal(x[0], X_T)
    np.testing.assert_array_equal(level.t, [800, 600, 400, 200, 0])
    if not isinstance(sampler, Heun):  # it asks first at the level that its churn leads to
        before = jax.jit(functools.partial(advance, *run.args))(start(sampler, guided(), X_T), 0, 2)
        np.testing.assert_allclose(x[2], before[0].x, atol=1e-6)
        for i in range(5):
            free, _ = DATA.denoiser()(x[i], jax.tree.map(lambda a, i=i: a[i], level))
            np.testing.assert_allclose(prediction.x_0[i], free.x_0, atol=1e-5)
    assert np.abs(prediction.gradient).min() > 0


def test_a_step_of_two_evaluations_records_the_first():
    def record(state, prediction, transition):
        return state.x, prediction.x_0, transition.level

    x, x_0, level = sample(Heun(), guided(), GRID, NOISE_AT, X_T, record=record)[1]
    for i in range(5):
        free, _ = DATA.denoiser()(x[i], jax.tree.map(lambda a, i=i: a[i], level))
        np.testing.assert_allclose(x_0[i], free.x_0, atol=1e-5)


@EACH_SAMPLER
def test_gradients_are_the_same_when_steps_are_recomputed(sampler):
    @functools.partial(jax.jit, static_argnames='remat')
    def gradients(sampler, x_T, scale, remat):
        def value(sampler, x_T, scale):
            return jnp.sum(sample(sampler, guided(scale), GRID, NOISE_AT, x_T, remat=remat)[0].x ** 2)

        return jax.grad(value, argnums=(0, 1, 2))(sampler, x_T, scale)

    kept, again = (gradients(sampler, X_T, jnp.ones(4), remat=remat) for remat in (False, True))
    for one, two in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    assert np.abs(kept[1]).min() > 0 and np.abs(kept[2]).min() > 0


@pytest.mark.parametrize('eta', [0.0, 0.5])
def test_the_gradient_with_respect_to_eta_is_that_of_differences(eta):
    def value(eta):
        return jnp.sum(sample(DDIM(eta), guided(), GRID, NOISE_AT, X_T)[0].x)

    difference = (value(eta + 1e-2) - value(eta)) / 1e-2
    np.testing.assert_allclose(jax.grad(value)(eta), difference, rtol=0.05)


def test_noise_depends_on_the_key_the_position_and_the_draw_bitwise():
    draws = [NOISE_AT(position, i) for position in (0, 1, 2, 3) for i in (0, 1, 2)]
    assert len(np.unique(draws)) == np.size(draws)
    key = jax.random.fold_in(KEYS[1], 2)
    for i, each in ((0, key), (2, jax.random.fold_in(key, 2))):
        np.testing.assert_array_equal(NOISE_AT(2, i)[1], jax.random.normal(each, SHAPE))
        np.testing.assert_array_equal(noise_of(KEYS[1:3], SHAPE)(2, i), NOISE_AT(2, i)[1:3])


def test_other_scales_and_etas_do_not_compile_again():
    traces = []

    @jax.jit
    def run(sampler, scale):
        traces.append(1)
        return sample(sampler, guided(scale), GRID, NOISE_AT, X_T)[0].x

    images = [run(DDIM(eta), scale) for scale, eta in ((1.0, 0.0), (4.0, 0.0), (4.0, 1.0))]
    assert len(traces) == 1
    assert not np.allclose(images[0], images[1]) and not np.allclose(images[1], images[2])


@pytest.mark.parametrize('grid', [GRID, grid_at([-8, -4, 0, 4, 0, 4, 0, 8])], ids=['falling', 'renoised'])
@EACH_SAMPLER
def test_evaluations_are_those_that_are_made(sampler, grid):
    def counted(x_t, level, count):
        return DATA.predict(x_t, level), count + 1

    denoise = plain(DATA.predict)._replace(call=counted, init=lambda x_T: jnp.zeros((), jnp.int32))
    run = jax.jit(functools.partial(advance, sampler, denoise, grid, NOISE_AT))
    num_steps, carry = len(grid.level.t), start(sampler, denoise, X_T)
    for done in range(num_steps):
        assert evaluations(sampler, grid, done) + int(carry[1]) == evaluations(sampler, grid)
        carry = run(carry, done, done + 1)
    assert int(carry[1]) == evaluations(sampler, grid) > 0


# Grids whose levels go up

DOWN = np.linspace(-9, 9, 200)
JUMP = np.concatenate([DOWN[:150], DOWN[100:150], DOWN[100:]])  # twice from the level after 150 back to 100


def test_moments_over_a_grid_that_adds_noise_are_those_of_the_equations():
    """Of ancestral sampling with the small variance, in float64 from ᾱ alone."""
    grid = grid_at(JUMP)
    assert grid.renoise.sum() == 2
    mean, variance = 0.0, 1.0
    alpha2 = np.append(1 / (1 + np.exp(-JUMP)), 1.0)
    for here, there in itertools.pairwise(alpha2):
        if there < here:
            mean, variance = np.sqrt(there / here) * mean, there / here * variance + 1 - there / here
            continue
        beta, total = 1 - here / there, here * DATA.variance + 1 - here
        small = beta * (1 - there) / (1 - here)
        a = (1 - beta / total) / np.sqrt(1 - beta)
        c = beta * np.sqrt(here) * DATA.mean / total / np.sqrt(1 - beta)
        mean, variance = a * mean + c, a**2 * variance + (small if there < 1 else 0)
    ours = loop_moments(DDPM(), DATA.denoiser(), grid)
    np.testing.assert_allclose(ours, (mean, variance), rtol=2e-4, atol=1e-5)


@EACH_SAMPLER
def test_adding_noise_to_the_right_law_gives_the_right_law(sampler):
    ours = loop_moments(sampler, DATA.denoiser(), grid_at(JUMP))
    np.testing.assert_allclose(ours, (DATA.mean, DATA.variance), atol=2e-2)


def test_restarts_forget_errors_of_the_start():
    """A denoiser that is wrong at the noisiest levels, to which the restarts do not return."""
    data = DATA.denoiser()
    wrong = data._replace(
        call=lambda x_t, level, memory: data(jnp.where(level.t > 900, 2.0, 1.0) * x_t, level)
    )
    once, thrice = (
        loop_moments(DDIM(), wrong, grid_at(levels))[1]
        for levels in (DOWN, np.concatenate([DOWN[:150], DOWN[40:150], DOWN[40:]]))
    )
    assert abs(thrice - DATA.variance) < 0.5 * abs(once - DATA.variance)


@pytest.mark.filterwarnings('error')
@EACH_SAMPLER
def test_noise_is_also_added_to_clean_images(sampler):
    """A run to the clean image, up to the middle and down again."""
    half = grid_at(DOWN[100:]).level
    levels = [
        np.concatenate([a, [clean], b, [clean]])
        for a, b, clean in zip(grid_at(DOWN).level, half, (0, 1, 0), strict=True)
    ]
    grid = jax.tree.map(
        lambda a: a if a.dtype == bool else np.float32(a), between(Level(*np.float64(levels)))
    )
    assert grid.renoise.sum() == 1 and all(np.isfinite(grid.mean_x0)) and all(np.isfinite(grid.log_posterior))
    ours = loop_moments(sampler, DATA.denoiser(), grid)
    np.testing.assert_allclose(ours, (DATA.mean, DATA.variance), atol=2e-2)


@EACH_SAMPLER
def test_after_added_noise_the_sampler_starts_again(sampler):
    """A grid with a jump is two grids with q(x_next|x_t) in between, whatever the sampler remembers."""
    levels = np.array([-8.0, -4, 0, 4, -2, 2, 6])
    whole = grid_at(levels)
    place = int(np.argmax(whole.renoise))
    assert place == 3 and whole.renoise.sum() == 1
    first, up, second = (
        jax.tree.map(lambda a, part=part: a[part], whole)
        for part in (slice(place), place, slice(place + 1, None))
    )
    denoise = guided()

    def noise_after(position, i):
        return NOISE_AT(position + place + 1, i)

    @jax.jit
    def in_parts(x_T):
        before = sample(sampler, denoise, first._replace(renoise=None), NOISE_AT, x_T)[0].x
        ratio = up.next.alpha / up.level.alpha
        sigma = jnp.sqrt(up.next.sigma**2 - ratio**2 * up.level.sigma**2)
        x = ratio * before + sigma * NOISE_AT(place + 1, 0)
        return sample(sampler, denoise, second._replace(renoise=None), noise_after, x)[0].x

    # The amount of churn depends on the number of steps in the grid, which the parts keep.
    ours = jax.jit(lambda x: sample(sampler, denoise, whole, NOISE_AT, x)[0].x)(X_T)
    np.testing.assert_allclose(ours, in_parts(X_T), rtol=1e-4, atol=1e-5)


def test_where_noise_is_added_the_record_has_the_state_and_no_prediction():
    grid = grid_at([-8, -4, 0, -4, 0, 4])

    def record(state, prediction, transition):
        return state.x, prediction.x_0, transition.renoise

    x, x_0, renoise = sample(DDIM(), with_reuse(), grid, NOISE_AT, X_T, record=record)[1]
    np.testing.assert_array_equal(renoise, [False, False, True, False, False, False])
    np.testing.assert_array_equal(x_0[2], np.zeros_like(x_0[2]))
    ratio = grid.mean_xt[2]
    added = np.exp(0.5 * grid.log_beta[2]) * NOISE_AT(3, 0)
    np.testing.assert_allclose(x[3], ratio * x[2] + added, atol=1e-6)
    assert np.all(np.abs(np.delete(x_0, 2, axis=0)).max(axis=(1, 2, 3, 4)) > 0)


def test_a_traced_draw_is_the_same_draw():
    for i in (1, 2):
        np.testing.assert_array_equal(jax.jit(NOISE_AT)(3, i), NOISE_AT(3, i))
