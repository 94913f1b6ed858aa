import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance, Models, Reuse
from diffusion_jax.diffusion.samplers import DDPM, Heun
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, Calls, run

GUIDANCE = ClassifierGuidance(1.5, log_prob=MIXTURE.class_log_prob(1))
T = np.array(GRID.level.t)
N = np.arange(len(T))


def linear(weight):
    """Guidance whose gradient is weight·t in every pixel."""
    return ClassifierGuidance(weight, log_prob=lambda x, level: level.t * jnp.sum(x, axis=(1, 2, 3)))


def gradients(*guidances):
    denoise = MIXTURE.denoiser()
    for guidance in guidances:
        denoise = guidance.wrap(denoise, Models())
    return run(denoise)[1].gradient[:, 0, 0, 0, 0]


@pytest.mark.parametrize('sampler', [DDPM(), Heun()])
def test_every_evaluation_is_the_guidance_itself(sampler):
    denoise = MIXTURE.denoiser()
    plain, ours = (run(g.wrap(denoise, Models()), sampler)[0] for g in (GUIDANCE, Reuse(GUIDANCE, 1)))
    np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize('every', [1, 2, 3, 100])
def test_the_gradient_is_that_of_every_kth_evaluation(every):
    np.testing.assert_allclose(gradients(Reuse(linear(1.0), every)), T[every * (N // every)], rtol=1e-5)


def test_gradients_of_other_guidances_are_fresh_and_counted_once():
    reused = T[3 * (N // 3)]
    for guidances in (
        (linear(-2.0), Reuse(linear(1.0), 3)),
        (Reuse(linear(1.0), 3), linear(-2.0)),
    ):
        np.testing.assert_allclose(gradients(*guidances), -2 * T + reused, rtol=1e-5)
    both = gradients(Reuse(linear(-2.0), 2), Reuse(linear(1.0), 3))
    np.testing.assert_allclose(both, -2 * T[2 * (N // 2)] + reused, rtol=1e-5)


def test_the_classifier_is_asked_at_every_kth_evaluation_only():
    calls = Calls()
    guidance = ClassifierGuidance(1.5, log_prob=calls.of(MIXTURE.class_log_prob(1)))
    run(Reuse(guidance, 3).wrap(MIXTURE.denoiser(), Models()))
    np.testing.assert_allclose(calls.take(), SIGMAS[::3], rtol=1e-4)


def test_the_denoiser_is_asked_once_an_evaluation():
    calls = Calls()
    denoise = plain(calls.of(MIXTURE.predict))
    for guidance in (linear(-2.0), Reuse(linear(1.0), 2), Reuse(GUIDANCE, 3)):
        denoise = guidance.wrap(denoise, Models())
    run(denoise)
    np.testing.assert_allclose(calls.take(), SIGMAS, rtol=1e-4)


def test_what_has_no_gradient_cannot_be_reused():
    guidance = Reuse(ClassifierFreeGuidance(2.0))
    denoise = guidance.wrap(MIXTURE.denoiser(), Models(null=MIXTURE.denoiser()))
    with pytest.raises(TypeError, match='gradient'):
        run(denoise)
