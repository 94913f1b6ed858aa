"""Rescaled and projected extrapolation: what each keeps, and laws on Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import (
    APG,
    AutoGuidance,
    ClassifierFreeGuidance,
    Interval,
    Models,
    Ramp,
    Rescale,
)
from diffusion_jax.diffusion.process import add_noise, from_x_0
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from tests.diffusion.gaussian import Data, loop_moments
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, START, Calls, run
from tests.diffusion.mixture import vp_grid

STRONG, WEAK = MIXTURE.only(1).denoiser(), MIXTURE.only(0).denoiser()
MODELS = Models(null=WEAK, weak=WEAK)
LEVEL = jax.tree.map(lambda a: a[2], GRID.level)
FREE = ClassifierFreeGuidance(4.0)


def predicted(guidance, strong=STRONG):
    denoise = guidance.wrap(strong, MODELS)
    prediction, _ = denoise(START, LEVEL, denoise.init(START))
    np.testing.assert_allclose(add_noise(prediction.x_0, prediction.eps, LEVEL), START, rtol=1e-4, atol=1e-4)
    return prediction


def per_image(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


@pytest.mark.parametrize('phi', [0.0, 0.7, 1.0])
def test_rescaled_eps_has_in_part_the_standard_deviation_of_the_model(phi):
    strong, guided, ours = (
        per_image(predicted(g).eps) for g in (ClassifierFreeGuidance(1.0), FREE, Rescale(FREE, phi))
    )
    expected = phi * strong.std(axis=1) / guided.std(axis=1) + 1 - phi
    np.testing.assert_allclose(ours, expected[:, None] * guided, rtol=1e-4, atol=1e-5)


def update(guidance, scale=4.0):
    return per_image(predicted(guidance).x_0 - STRONG(START, LEVEL)[0].x_0) / (scale - 1)


def test_the_update_is_orthogonal_to_the_prediction_and_bounded():
    d = per_image(STRONG(START, LEVEL)[0].x_0 - WEAK(START, LEVEL)[0].x_0)
    onto = per_image(STRONG(START, LEVEL)[0].x_0)
    lengths = np.linalg.norm(d, axis=1)
    np.testing.assert_allclose(np.sum(update(APG(FREE)) * onto, axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(update(APG(FREE, eta=1.0)), d, rtol=1e-3, atol=1e-5)
    radius = lengths.mean()  # between those of the two images
    bounded = d * np.minimum(1, radius / lengths)[:, None]
    np.testing.assert_allclose(update(APG(FREE, eta=1.0, radius=radius)), bounded, rtol=1e-3, atol=1e-5)
    parallel = (bounded * onto).sum(axis=1, keepdims=True) / (onto**2).sum(axis=1, keepdims=True) * onto
    ours = update(APG(FREE, eta=0.25, radius=radius))
    np.testing.assert_allclose(ours, bounded - 0.75 * parallel, rtol=1e-3, atol=1e-5)


def test_the_average_is_carried_from_evaluation_to_evaluation():
    """m_n = Σ_i β^i·d for a d that stays."""
    denoise = APG(FREE, eta=1.0, momentum=-0.5).wrap(STRONG, MODELS)
    memory, strong = denoise.init(START), STRONG(START, LEVEL)[0].x_0
    d = per_image(strong - WEAK(START, LEVEL)[0].x_0)
    for n in range(4):
        prediction, memory = denoise(START, LEVEL, memory)
        factor = sum((-0.5) ** i for i in range(n + 1))
        np.testing.assert_allclose(per_image(prediction.x_0 - strong) / 3, factor * d, rtol=1e-3, atol=1e-5)


CASES = [(0.0, 1.0), (1.0, 3.0), (0.5, 2.0)]


@pytest.mark.parametrize('sampler', [DDIM(), DDPM()])
@pytest.mark.parametrize(('eta', 'same'), CASES)
def test_the_law_on_one_pixel_is_that_of_extrapolation_at_another_scale(sampler, eta, same):
    """All of one pixel lies along D, so w becomes 1 + η·(w−1); at η = 0 it is the conditional model."""
    with jax.enable_x64(True):
        grid = vp_grid([*np.geomspace(20, 0.05, 20), 0.0])
        strong, weak = Data(0.6, 0.2).denoiser(), Data(-0.2, 0.9).denoiser()
        models = Models(null=weak)
        plainly = loop_moments(sampler, ClassifierFreeGuidance(same).wrap(strong, models), grid)
        ours = loop_moments(sampler, APG(ClassifierFreeGuidance(3.0), eta=eta).wrap(strong, models), grid)
    np.testing.assert_allclose(ours, plainly, rtol=1e-6)


@pytest.mark.parametrize('guidance', [Rescale(FREE), APG(FREE, momentum=-0.5, radius=0.5)])
def test_an_image_does_not_depend_on_its_batch(guidance):
    together = predicted(guidance).x_0
    denoise = guidance.wrap(STRONG, MODELS)
    for i in range(2):
        alone, _ = denoise(START[i : i + 1], LEVEL, denoise.init(START[i : i + 1]))
        np.testing.assert_allclose(together[i], alone.x_0[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('modifier', [Rescale, APG])
def test_an_interval_of_a_model_that_predicts_the_mean(modifier):
    mean = plain(lambda x_t, level: STRONG(x_t, level)[0]._replace(mean=x_t))
    prediction = predicted(Interval(modifier(FREE), 0.0, 1e-3), mean)
    np.testing.assert_allclose(prediction.x_0, STRONG(START, LEVEL)[0].x_0, rtol=1e-5)


@pytest.mark.parametrize('modifier', [Rescale, APG])
def test_both_models_are_asked_once_an_evaluation(modifier):
    calls = Calls(), Calls()
    strong, weak = (plain(c.of(m.predict)) for c, m in zip(calls, (MIXTURE.only(1), MIXTURE), strict=True))
    run(Interval(modifier(AutoGuidance(2.0)), 0.9, 20.0).wrap(strong, Models(weak=weak)))
    np.testing.assert_allclose(calls[0].take(), SIGMAS, rtol=1e-4)
    np.testing.assert_allclose(calls[1].take(), SIGMAS[1:4], rtol=1e-4)


def test_scales_may_be_those_of_images_and_of_levels():
    scales = jnp.array([1.0, 4.0])
    ours = predicted(APG(ClassifierFreeGuidance(scales))).x_0
    np.testing.assert_allclose(ours[0], STRONG(START, LEVEL)[0].x_0[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[1], predicted(APG(FREE)).x_0[1], rtol=1e-5, atol=1e-6)
    ramp = predicted(Ramp(APG(FREE), 0.0, 2.0)).x_0
    fixed = predicted(APG(ClassifierFreeGuidance(4.0 * 2.0 * (1 - LEVEL.sigma)))).x_0
    np.testing.assert_allclose(ramp, fixed, rtol=1e-4, atol=1e-5)


def test_a_prediction_of_0_has_no_direction():
    constant = plain(lambda x_t, level: from_x_0(0 * x_t, x_t, level))
    assert np.isfinite(predicted(APG(FREE), constant).x_0).all()
