"""What every sampler must do, on data whose exact denoiser is known. A new one in SAMPLERS is tested here.

Samplers are arguments of jitted functions, so that all of a kind share one program.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.parts import LARGEST, options
from diffusion_jax.diffusion.samplers import (
    DDIM,
    IPNDM,
    SAMPLERS,
    TFG,
    AdamsBashforth,
    DPMSolverPP2MSDE,
    DPMSolverPP3M,
    DPMSolverPP3MSDE,
    EluCD,
    Heun,
    UniPC,
    UniPCBH1,
    sample,
)
from diffusion_jax.diffusion.samplers.loop import advance, evaluations, start
from diffusion_jax.diffusion.schedules import row
from tests.diffusion.mixture import Mixture, affine_map, make_mixture, vp_grid, vp_levels

SHAPE = (2, 2, 3)
MIXTURE = make_mixture(SHAPE)
GRID = vp_grid([40.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.0], np.float32)
UP_AND_DOWN = vp_grid([40.0, 3.0, 0.3, 2.0, 0.3, 0.0], np.float32)
# Of the start, then of each step up to two draws.
START, *NOISE = np.random.default_rng(0).standard_normal((1 + 2 * 6, 4, *SHAPE)).astype(np.float32)
NOISE = np.reshape(NOISE, (2, 6, 4, *SHAPE))

WITH_OPTIONS = [DDIM(0.5), DDIM(1.0), Heun(s_churn=4.0, s_min=0.05, s_max=20.0, s_noise=1.003)]
ALONE = {name: kind for name, kind in SAMPLERS.items() if kind().population == 1}  # others: test_smc.py
CASES = {name: sampler() for name, sampler in ALONE.items()} | {
    f'{type(sampler).__name__}{i}': sampler for i, sampler in enumerate(WITH_OPTIONS)
}
CASES['elucd'] = EluCD(gamma=0.0)  # otherwise guidance is stronger than that of the posterior, by design
every = pytest.mark.parametrize('sampler', CASES.values(), ids=CASES)
traced = []


@jax.jit
def image(sampler, mixture, grid, x_T, noise):
    traced.append(sampler)
    return sample(sampler, mixture.denoiser(), grid, lambda position, i: noise[i, position - 1], x_T)[0].x


def test_the_denoiser_of_the_mixture_is_exact():
    """eps is −σ·∇ log p(x_t), and p(x_t) = p(x_t|k)·p(k)/p(k|x_t) for every k."""
    level = row(GRID, 2).level

    def log_density(x, k):
        squared = jnp.sum((x - level.alpha * MIXTURE.means[k]) ** 2)
        variance = (level.alpha * MIXTURE.stds[k]) ** 2 + level.sigma**2
        return -squared / (2 * variance) - jnp.sum(MIXTURE.class_log_prob(k)(x, level))

    for k in range(3):
        score = jax.jit(jax.grad(lambda x, k=k: log_density(x, k)))(START[:1])
        expected = MIXTURE.predict(START[:1], level).eps
        np.testing.assert_allclose(-level.sigma * score, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', [kind for kind in SAMPLERS.values() if kind.order], ids=lambda s: s.__name__)
def test_order_of_convergence(kind):
    # The first steps are of lower order, which is seen where the order is 4.
    atol = 0.2 if kind.order < 4 else 0.4
    np.testing.assert_allclose(measured_order(kind()), kind.order, atol=atol)


def measured_order(sampler):
    ends, errors = (20.0, 0.05), []
    with jax.enable_x64(True):
        x_T = START * vp_levels(ends).sigma[0]
        exact = MIXTURE.solve_ode(x_T, ends)
        for steps in (64, 256):
            grid = vp_grid(np.geomspace(*ends, steps + 1))
            x = image(sampler, MIXTURE, grid, x_T.astype(np.float64), np.zeros((2, steps, *x_T.shape)))
            errors.append(np.median(np.abs(x - exact)))
    return np.log2(errors[0] / errors[1]) / 2


@pytest.mark.parametrize(
    ('sampler', 'order'),
    [
        (DPMSolverPP3M(max_order=1), 1),
        (DPMSolverPP3M(max_order=2), 2),
        (UniPC(max_order=1), 2),
        (UniPC(max_order=2), 3),
        (UniPCBH1(max_order=2), 3),
        (AdamsBashforth(max_order=1), 1),
        (AdamsBashforth(max_order=2), 2),
        (AdamsBashforth(max_order=3), 3),
        (IPNDM(max_order=2), 2),
        (IPNDM(max_order=3), 2),
        (DPMSolverPP3MSDE(eta=0.0), 3),
        (DPMSolverPP2MSDE(eta=0.0), 2),
    ],
    ids=str,
)
def test_order_of_convergence_with_other_options(sampler, order):
    np.testing.assert_allclose(measured_order(sampler), order, atol=0.25)


GAUSSIAN, Y, SPREAD = Mixture(np.ones(1), np.full((1, 1, 1, 1), 0.3), np.array([0.5])), -0.5, 0.4
GAIN = 0.25 / (0.25 + SPREAD)


@jax.jit
def moments(sampler, scale):
    """Of a pixel, guided by y = x_0 + N(0, SPREAD)."""
    log_prob = GAUSSIAN.measurement_log_prob(Y, SPREAD)
    denoise = classifier_guidance(GAUSSIAN.denoiser(), log_prob, scale)
    offset, columns = affine_map(sampler, denoise, make_grid(DiffusionConfig(), '500'))
    return offset[0], jnp.sum(columns**2)


@every
@pytest.mark.parametrize(
    ('scale', 'law'), [(0.0, (0.3, 0.25)), (1.0, (0.3 + GAIN * (Y - 0.3), (1 - GAIN) * 0.25))]
)
def test_the_law_is_that_of_the_data_and_under_guidance_the_posterior(sampler, scale, law):
    if scale and isinstance(sampler, TFG):
        pytest.skip('gradients have weights of their own; test_training_free.py has the law')
    np.testing.assert_allclose(moments(sampler, scale), law, atol=2e-2)


@jax.jit
def image_of_class(sampler, k):
    denoise = classifier_guidance(MIXTURE.denoiser(), MIXTURE.class_log_prob(k), 1.0)
    return sample(sampler, denoise, GRID, lambda position, i: jnp.asarray(NOISE)[i, position - 1], START)[0].x


@every
def test_guidance_by_the_exact_classifier_samples_its_class(sampler):
    """The same path as that of the class's own denoiser, where guidance shifts the score."""
    if sampler.shifts_mean:
        pytest.skip('exact only in the limit of many steps')
    of_class = MIXTURE._replace(weights=np.array([0.0, 0.0, 1.0]))
    own = image(sampler, of_class, GRID, START, NOISE)
    np.testing.assert_allclose(image_of_class(sampler, 2), own, atol=1e-5)


@every
def test_an_image_does_not_depend_on_its_batch(sampler):
    together = image(sampler, MIXTURE, GRID, START, NOISE)
    alone = image(sampler, MIXTURE, GRID, START[2:3], NOISE[:, :, 2:3])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5)


@every
def test_float32_is_close_to_float64(sampler):
    short = image(sampler, MIXTURE, GRID, START, NOISE)
    with jax.enable_x64(True):
        grid, x_T, noise = jax.tree.map(lambda a: a.astype(np.float64), (GRID, START, NOISE))
        long = image(sampler, MIXTURE, grid, x_T, noise)
        assert long.dtype == np.float64
    np.testing.assert_allclose(short, long, atol=1e-5)


def counted():
    """Guided, and its memory is the number of its evaluations."""
    denoise = classifier_guidance(MIXTURE.denoiser(), MIXTURE.class_log_prob(1), 1.5)
    return denoise._replace(
        call=lambda x_t, level, count: (denoise(x_t, level)[0], count + 1), init=lambda x_T: jnp.int32(0)
    )


@jax.jit
def recorded(sampler):
    def record(state, prediction, transition):
        return state, prediction

    return sample(
        sampler,
        counted(),
        UP_AND_DOWN,
        lambda position, i: jnp.asarray(NOISE)[i, position - 1],
        START,
        record=record,
    )


@jax.jit
def part(sampler, carry, done, until):
    noise = jnp.asarray(NOISE)
    return advance(
        sampler, counted(), UP_AND_DOWN, lambda position, i: noise[i, position - 1], carry, done, until
    )


@every
def test_a_run_is_recorded_counted_and_continued_after_any_step(sampler):
    number = len(UP_AND_DOWN.level.t)
    state, (states, predictions) = recorded(sampler)
    np.testing.assert_array_equal(states.x[0], START)
    assert predictions.x_0.shape == predictions.gradient.shape == states.x.shape

    after_3 = part(sampler, start(sampler, counted(), START), 0, 3)
    last, count = part(sampler, after_3, 3, number)
    np.testing.assert_allclose(last.x, state.x, atol=1e-5)
    assert count == evaluations(sampler, UP_AND_DOWN)
    assert count - after_3[1] == evaluations(sampler, UP_AND_DOWN, 3)

    before_last = jax.tree.map(lambda a: a[-1], states)
    image, count = part(sampler, (before_last, jnp.int32(0)), number - 1, number)
    np.testing.assert_allclose(image.x, state.x, atol=1e-5)
    assert count == 1


@pytest.mark.parametrize('kind', ALONE.values(), ids=ALONE)
def test_other_options_compile_nothing(kind):
    image(kind(), MIXTURE, GRID, START, NOISE)
    before = len(traced)
    for name, field in options(kind).items():
        most = field.metadata['most']
        value = field.default + 1 if most == LARGEST else type(field.default)((field.default + most) / 2)
        other = image(dataclasses.replace(kind(), **{name: value}), MIXTURE, GRID, START, NOISE)
        assert np.isfinite(other).all()
    assert len(traced) == before
