import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance, Models
from diffusion_jax.diffusion.samplers import DDIM, DPMSolverPP2M
from tests.diffusion.guidance.calls import GRID, MIXTURE, START, Calls, run

STRONG, WEAK = MIXTURE.only(1).denoiser(), MIXTURE.denoiser()
LEVEL = GRID.level._replace(**{name: value[2] for name, value in GRID.level._asdict().items()})


def guided(scale, strong=STRONG, weak=WEAK):
    return ClassifierFreeGuidance(scale).wrap(strong, Models(null=weak))


@pytest.mark.parametrize('scale', [0.0, 0.5, 1.0, 3.0])
def test_eps_and_x_0_are_extrapolated(scale):
    denoise = guided(scale)
    ours, _ = denoise(START, LEVEL, denoise.init(START))
    strong, weak = STRONG(START, LEVEL)[0], WEAK(START, LEVEL)[0]
    for field in ('eps', 'x_0'):
        a, b = getattr(strong, field), getattr(weak, field)
        np.testing.assert_allclose(getattr(ours, field), b + scale * (a - b), rtol=1e-4, atol=1e-5)


def test_the_mean_of_a_network_that_predicts_it_is_extrapolated():
    def with_mean(mixture):
        def predict(x_t, level):
            prediction = mixture.predict(x_t, level)
            return prediction._replace(mean=0.3 * prediction.x_0 + 0.7 * x_t)

        return plain(predict)

    prediction, _ = guided(2.0, with_mean(MIXTURE.only(1)), with_mean(MIXTURE))(START, LEVEL, ((), ()))
    np.testing.assert_allclose(prediction.mean, 0.3 * prediction.x_0 + 0.7 * START, rtol=1e-4, atol=1e-5)


def test_scale_1_is_the_model_with_a_class_and_0_the_one_without():
    np.testing.assert_allclose(run(guided(1.0))[0], run(STRONG)[0], atol=1e-5)
    np.testing.assert_allclose(run(guided(0.0))[0], run(WEAK)[0], atol=1e-5)


@pytest.mark.parametrize('sampler', [DDIM(), DPMSolverPP2M()])
def test_it_is_guidance_by_the_classifier_that_the_two_models_imply(sampler):
    """score_y − score_null = ∇ log p(y|x_t): from the null model at scale w both are the same."""
    classifier = ClassifierGuidance(2.5, log_prob=MIXTURE.class_log_prob(1))
    expected, _ = run(classifier.wrap(WEAK, Models()), sampler)
    np.testing.assert_allclose(run(guided(2.5), sampler)[0], expected, atol=1e-4)


def test_scales_are_those_of_each_image():
    scales = [0.5, 3.0]
    together = run(guided(jnp.array(scales)))[0]
    for i, scale in enumerate(scales):
        np.testing.assert_allclose(together[i], run(guided(scale))[0][i], atol=1e-5)


def test_both_models_are_asked_once_an_evaluation_and_keep_their_memories():
    calls = Calls(), Calls()
    strong, weak = (plain(c.of(MIXTURE.predict)) for c in calls)
    run(guided(2.0, strong, weak))
    assert [len(c.take()) for c in calls] == [6, 6]

    def counting(denoise, start):
        return denoise._replace(
            call=lambda x_t, level, count: (denoise(x_t, level)[0], count + 1), init=lambda x_T: start
        )

    denoise = guided(2.0, counting(STRONG, 10), counting(WEAK, 20))
    memory = denoise.init(START)
    for _ in range(3):
        _, memory = denoise(START, LEVEL, memory)
    assert memory == (13, 23)


def test_its_prediction_is_clipped_after_it():
    assert ClassifierFreeGuidance().before_clip
    assert ClassifierFreeGuidance().needs == ('null',)
