import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import clip
from diffusion_jax.diffusion.guidance import ClassifierGuidance, Models, ReconstructionGuidance
from diffusion_jax.diffusion.samplers import DDIM, DDPM, DPMSolverPP2M
from tests.diffusion.guidance.calls import GRID, MIXTURE, START, run

GAUSSIAN = MIXTURE.only(1)
Y, SPREAD = 0.4, 0.1  # y = x_0 + N(0, SPREAD)


def log_prob(x_0, level):
    """log N(y; x̂_0, Var[x_0|x_t] + SPREAD), which on Gaussian data is log p(y|x_t)."""
    variance = GAUSSIAN.stds[0] ** 2
    spread = variance * level.sigma**2 / (level.alpha**2 * variance + level.sigma**2)
    return -jnp.sum((Y - x_0) ** 2, axis=(1, 2, 3)) / (2 * (spread + SPREAD))


@pytest.mark.parametrize('sampler', [DDIM(), DDPM(), DPMSolverPP2M()])
def test_with_the_variance_of_x_0_it_is_classifier_guidance(sampler):
    denoise = GAUSSIAN.denoiser()
    exact = ClassifierGuidance(1.5, log_prob=GAUSSIAN.measurement_log_prob(Y, SPREAD))
    ours = ReconstructionGuidance(1.5, log_prob=log_prob)
    expected, got = (run(g.wrap(denoise, Models()), sampler) for g in (exact, ours))
    np.testing.assert_allclose(got[1].gradient, expected[1].gradient, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-4)


def test_scales_are_those_of_each_image():
    scale = jnp.array([0.0, 2.0])
    gradient = [
        run(ReconstructionGuidance(s, log_prob=log_prob).wrap(GAUSSIAN.denoiser(), Models()))[1].gradient[0]
        for s in (1.0, scale)
    ]
    np.testing.assert_allclose(gradient[1], scale[:, None, None, None] * gradient[0], rtol=1e-5)


def test_where_x_0_is_clipped_it_has_no_gradient():
    far = clip(GAUSSIAN._replace(means=GAUSSIAN.means + 3).denoiser())
    gradient = run(ReconstructionGuidance(log_prob=log_prob).wrap(far, Models()))[1].gradient
    np.testing.assert_array_equal(gradient, 0)


def test_without_a_function_it_asks_the_classifier_about_a_clean_image():
    levels = []

    def classifier(x_0, level):
        levels.append(level)
        return -jnp.sum((Y - x_0) ** 2, axis=(1, 2, 3)) / (2 * SPREAD) + 0 * level.t

    guidance = ReconstructionGuidance()
    assert guidance.needs == ('log_prob',)
    assert ReconstructionGuidance(log_prob=log_prob).needs == ()
    denoise = guidance.wrap(GAUSSIAN.denoiser(), Models(log_prob=classifier))
    level = GRID.level._replace(**{name: value[1] for name, value in GRID.level._asdict().items()})
    prediction, _ = denoise(START, level)
    assert (levels[0].t, levels[0].alpha, levels[0].sigma) == (0, 1, 0)
    total = level.alpha**2 * GAUSSIAN.stds[0] ** 2 + level.sigma**2
    slope = level.alpha * GAUSSIAN.stds[0] ** 2 / total  # of x_0 by x_t
    np.testing.assert_allclose(prediction.gradient, slope * (Y - prediction.x_0) / SPREAD, rtol=1e-4)
