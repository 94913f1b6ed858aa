import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.diffusion.guidance import (
    Adam,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Interval,
    Models,
    Normalized,
    ReconstructionGuidance,
)
from diffusion_jax.diffusion.samplers import DDPM, Heun
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, START, Calls, run

GUIDANCE = ClassifierGuidance(1.5, log_prob=MIXTURE.class_log_prob(1))
T = np.array(GRID.level.t)


def linear(weight):
    """Guidance whose gradient is weight·t in every pixel."""
    return ClassifierGuidance(weight, log_prob=lambda x, level: level.t * jnp.sum(x, axis=(1, 2, 3)))


def predictions(*guidances, sampler=None):
    denoise = MIXTURE.denoiser()
    for guidance in guidances:
        denoise = guidance.wrap(denoise, Models())
    return run(denoise, sampler)[1].gradient


def adam(gradients, strength, b1, b2):
    """The steps of optax for a sequence of gradients."""
    optimizer = optax.scale_by_adam(b1, b2, eps=1e-8)
    state, steps = optimizer.init(jnp.zeros_like(gradients[0])), []
    for gradient in gradients:
        step, state = optimizer.update(jnp.asarray(gradient), state)
        steps.append(strength * np.asarray(step))
    return np.stack(steps)


@pytest.mark.parametrize(('b1', 'b2'), [(0.9, 0.999), (0.0, 0.7), (0.77, 0.38)])
def test_adam_is_that_of_optax_over_the_evaluations(b1, b2):
    found = predictions(Adam(linear(3.0), 0.2, b1, b2))
    gradients = np.broadcast_to(3 * T[:, None, None, None, None], found.shape)
    np.testing.assert_allclose(found, adam(gradients, 0.2, b1, b2), rtol=1e-4, atol=1e-6)


def test_the_first_step_of_adam_has_the_strength_in_every_pixel():
    plain, found = predictions(GUIDANCE)[0], predictions(Adam(GUIDANCE, jnp.array([0.3, 0.0])))[0]
    np.testing.assert_allclose(found[0], 0.3 * np.sign(plain[0]), rtol=1e-3)
    np.testing.assert_array_equal(found[1], 0)
    louder = predictions(Adam(ClassifierGuidance(150.0, log_prob=GUIDANCE.log_prob), 0.3))[0]
    np.testing.assert_allclose(louder[0], found[0], rtol=1e-3)


@pytest.mark.parametrize('modifier', [Adam(linear(1.0), 0.2), Normalized(linear(1.0), 0.2)])
def test_gradients_of_other_guidances_are_kept_and_counted_once(modifier):
    alone = predictions(modifier)
    others = np.broadcast_to(-2 * T[:, None, None, None, None], alone.shape)
    for guidances in ((linear(-2.0), modifier), (modifier, linear(-2.0))):
        np.testing.assert_allclose(predictions(*guidances), others + alone, rtol=1e-5, atol=1e-5)


def test_a_normalized_gradient_has_its_direction_and_the_strength_as_rms_in_every_image():
    strength = jnp.array([0.5, 2.0])
    plain, found = predictions(GUIDANCE)[0], predictions(Normalized(GUIDANCE, strength))[0]
    rms = np.sqrt(np.mean(np.square(plain), axis=(1, 2, 3), keepdims=True))
    np.testing.assert_allclose(found, strength[:, None, None, None] * plain / rms, rtol=1e-5)


@pytest.mark.parametrize('weight', [0.0, 1e-30, 1e30])
def test_a_normalized_gradient_is_finite_for_any_gradient(weight):
    found = predictions(Normalized(linear(weight), 0.2))
    strength = np.where(weight * T != 0, 0.2, 0.0)[:, None, None, None, None]
    np.testing.assert_allclose(np.abs(found), np.broadcast_to(strength, found.shape), rtol=1e-5)


@pytest.mark.parametrize('kind', [Adam, Normalized])
@pytest.mark.parametrize('guidance', [GUIDANCE, ReconstructionGuidance(1.0, GUIDANCE.log_prob)])
def test_they_act_on_every_guidance_by_a_gradient_in_intervals_and_in_every_sampler(kind, guidance):
    for sampler in (DDPM(), Heun()):
        assert np.isfinite(predictions(kind(guidance), sampler=sampler)).all()
    inside = predictions(Interval(kind(guidance), 0.2, 5.0))
    acts = np.array([0.2 <= sigma < 5.0 for sigma in SIGMAS])
    assert not np.any(np.asarray(inside)[~acts]) and np.all(
        np.any(np.asarray(inside)[acts], axis=(1, 2, 3, 4))
    )


def test_moments_do_not_change_outside_of_an_interval():
    """The first step inside is the first step of Adam."""
    inside = predictions(Interval(Adam(GUIDANCE, 0.3), 0.2, 5.0))
    first = int(np.argmax([sigma < 5.0 for sigma in SIGMAS]))
    np.testing.assert_allclose(np.abs(inside[first]), 0.3, rtol=1e-3)


@pytest.mark.parametrize('kind', [Adam, Normalized])
def test_the_denoiser_and_the_classifier_are_asked_once_an_evaluation(kind):
    calls = Calls()
    guidance = ClassifierGuidance(1.5, log_prob=calls.of(MIXTURE.class_log_prob(1)))
    run(kind(guidance).wrap(MIXTURE.denoiser(), Models()))
    np.testing.assert_allclose(calls.take(), SIGMAS, rtol=1e-4)


@pytest.mark.parametrize('kind', [Adam, Normalized])
def test_what_has_no_gradient_is_refused(kind):
    denoise = kind(ClassifierFreeGuidance(2.0)).wrap(MIXTURE.denoiser(), Models(null=MIXTURE.denoiser()))
    with pytest.raises(TypeError, match=kind.__name__):
        run(denoise)


def test_an_image_does_not_depend_on_its_batch():
    for kind in (Adam, Normalized):
        denoise = kind(GUIDANCE, 0.5).wrap(MIXTURE.denoiser(), Models())
        level = jax.tree.map(lambda a: a[1], GRID.level)
        together, alone = (denoise(x, level, denoise.init(x))[0].gradient for x in (START, START[1:]))
        np.testing.assert_allclose(together[1:], alone, rtol=1e-4, atol=1e-5)
