import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Interval,
    Models,
    ReconstructionGuidance,
    Reuse,
)
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import Heun
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, START, Calls, run
from tests.diffusion.mixture import vp_levels

INSIDE = [3.0, 1.0]  # low ≤ σ < high
GUIDANCE = ClassifierGuidance(2.0, log_prob=MIXTURE.class_log_prob(1))


@pytest.mark.parametrize('sigma', [0.5, 0.99, 1.0, 2.0, 9.99, 10.0, 20.0])
def test_it_acts_where_low_is_reached_and_high_is_not(sigma):
    level = Level(*map(jnp.float32, vp_levels(sigma)))
    denoise = MIXTURE.denoiser()
    low, high = (float(Level(*map(jnp.float32, vp_levels(s))).edm_sigma) for s in (1.0, 10.0))
    wrapped = Interval(GUIDANCE, low, high).wrap(denoise, Models())
    ours, _ = jax.jit(lambda x: wrapped(x, level, wrapped.init(x)))(START)
    expected = GUIDANCE.wrap(denoise, Models())(START, level)[0]
    gradient = expected.gradient if 1.0 <= sigma < 10.0 else np.zeros_like(START)
    np.testing.assert_allclose(ours.gradient, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.x_0, expected.x_0, rtol=1e-5, atol=1e-6)


def test_outside_the_classifier_is_not_asked():
    calls = Calls()
    guidance = ClassifierGuidance(2.0, log_prob=calls.of(MIXTURE.class_log_prob(1)))
    run(Interval(guidance, 0.9, 9.0).wrap(MIXTURE.denoiser(), Models()))
    np.testing.assert_allclose(calls.take(), INSIDE, rtol=1e-4)
    run(Interval(guidance, 0.9, 9.0).wrap(MIXTURE.denoiser(), Models()), Heun())  # also at the end of a step
    np.testing.assert_allclose(calls.take(), [3.0, 3.0, 1.0, 1.0], rtol=1e-4)


def test_outside_the_model_without_a_class_is_not_asked():
    calls = Calls()
    models = Models(null=plain(calls.of(MIXTURE.predict)))
    interval = Interval(ClassifierFreeGuidance(3.0), 0.9, 9.0)
    x_0, _ = run(interval.wrap(MIXTURE.only(1).denoiser(), models))
    np.testing.assert_allclose(calls.take(), INSIDE, rtol=1e-4)
    assert np.abs(x_0 - run(MIXTURE.only(1).denoiser())[0]).max() > 0.01


def test_a_gradient_of_0_is_added_only_where_the_other_side_has_one():
    strong, models = MIXTURE.only(1).denoiser(), Models(null=MIXTURE.denoiser())
    free = Interval(ClassifierFreeGuidance(3.0), 0.9, 9.0)
    assert run(free.wrap(strong, models))[1].gradient is None
    gradient = run(Interval(GUIDANCE, 0.9, 9.0).wrap(free.wrap(strong, models), models))[1].gradient
    inside = [sigma in INSIDE for sigma in SIGMAS]
    np.testing.assert_array_equal(np.abs(gradient).max(axis=(1, 2, 3, 4)) > 0, inside)


def test_everywhere_it_is_the_guidance_and_nowhere_nothing():
    denoise = MIXTURE.denoiser()
    everywhere = Interval(GUIDANCE).wrap(denoise, Models())
    np.testing.assert_allclose(run(everywhere)[0], run(GUIDANCE.wrap(denoise, Models()))[0], atol=1e-5)
    nowhere = Interval(GUIDANCE, 5.0, 5.0).wrap(denoise, Models())
    np.testing.assert_allclose(run(nowhere)[0], run(denoise)[0], atol=1e-5)


def test_it_asks_for_what_its_guidance_asks_for():
    for guidance in (GUIDANCE, ClassifierGuidance(), ClassifierFreeGuidance(), ReconstructionGuidance()):
        interval = Interval(Reuse(guidance) if guidance.needs != ('null',) else guidance)
        assert interval.needs == guidance.needs
        assert interval.before_clip == guidance.before_clip
        assert interval.asks_once == isinstance(guidance, ClassifierGuidance)


@pytest.mark.parametrize('kind', ['interval', 'reuse'])
def test_a_guidance_with_memory_before_it_counts_every_evaluation(kind):
    """The reused gradient is that of evaluation 2·⌊n/2⌋, inside and outside of a later guidance."""
    before = Reuse(ClassifierGuidance(1.0, log_prob=lambda x, level: level.t * jnp.sum(x, (1, 2, 3))), 2)
    nothing = ClassifierGuidance(0.0, log_prob=MIXTURE.class_log_prob(0))
    after = Interval(nothing, 0.9, 20.0) if kind == 'interval' else Reuse(nothing, 3)
    denoise = after.wrap(before.wrap(MIXTURE.denoiser(), Models()), Models())
    gradient = run(denoise)[1].gradient[:, 0, 0, 0, 0]
    n = np.arange(len(SIGMAS))
    np.testing.assert_allclose(gradient, GRID.level.t[2 * (n // 2)], rtol=1e-5)
