"""Guidance, samplers and loops of the caller, and gradients through a sampler."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import add_gradient
from diffusion_jax.diffusion.guidance import Guidance, Interval
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, align
from diffusion_jax.diffusion.samplers import SAMPLERS, Image, Sampler
from diffusion_jax.diffusion.schedules import make_schedule
from diffusion_jax.generation import generate
from diffusion_jax.generation.networks import make_denoiser
from diffusion_jax.images import to_uint8
from diffusion_jax.sharding import make_mesh
from tests.errors import refused
from tests.generation.shared import STEPS, closeness, make_model, random_params
from tests.tiers import fast_for
from tests.tiny import CONDITIONAL_UNET

NOISE = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)


class Brighter(Guidance):
    """Guidance towards `target`, an array, as every part may hold some."""

    target: jax.Array
    scale: Number = option(1.0, per_image=True)

    def wrap(self, denoise, models):
        def guided(x_t, level, memory):
            prediction, memory = denoise(x_t, level, memory)
            return add_gradient(prediction, align(self.scale, x_t) * (self.target - x_t)), memory

        return denoise._replace(call=guided)


class Weights(NamedTuple):
    x: jax.Array
    log_weight: jax.Array


class Euler(Sampler):
    """Euler's method with steps that are longer by a factor, and with weights that count them."""

    factor: Number = option(1.0, most=2.0)

    def init(self, x_T):
        return Weights(x_T, jnp.zeros(len(x_T)))

    def step(self, denoise, state, memory, transition, noise):
        here, there = transition.level, transition.next
        prediction, memory = denoise(state.x, here, memory)
        length = self.factor * (there.edm_sigma - here.edm_sigma)
        x = there.alpha * (state.x / here.alpha + length * prediction.eps)
        return Weights(x, state.log_weight + self.factor), memory


def test_an_own_guidance_is_a_function(model):
    def brighter(denoise):
        return Brighter(1.0).wrap(denoise, None)

    free = model.unguided()
    bright = free.sample(2, guidance=brighter, **STEPS)
    assert bright.images.mean() > free.sample(2, **STEPS).images.mean() + 10


def test_an_own_guidance_is_a_part_with_numbers_and_arrays(model, compilations):
    free, target = model.unguided(), np.ones((8, 8, 1), np.float32)
    bright = free.sample(2, guidance=Brighter(target), **STEPS)
    compilations.clear()
    dark = free.sample(2, guidance=Brighter(-target), scale=[1, 0], **STEPS)
    assert compilations == []
    assert dark.images[0].mean() < bright.images[0].mean() - 10
    assert closeness(dark.images[1], free.sample(2, **STEPS).images[1]) <= 1
    never = free.sample(2, guidance=Interval(Brighter(target), 1e6), **STEPS)
    assert closeness(never, free.sample(2, **STEPS)) <= 1


def test_an_own_sampler_with_weights(model, compilations):
    found = model.sample(2, 3, sampler=Euler(), respacing='ddim5')
    np.testing.assert_array_equal(found.log_weight, [5, 5])
    assert closeness(found, model.sample(2, 3, **STEPS)) <= 1
    compilations.clear()
    longer = model.sample(2, 3, sampler=Euler(1.1), respacing='ddim5')
    assert compilations == [] and closeness(longer, found) > 1
    with refused('Euler.factor', 3, 2):
        model.sample(2, 3, sampler=Euler(3.0), respacing='ddim5')


def test_weights_of_padding_are_removed(model):
    spread = dataclasses.replace(model, mesh=make_mesh(8, 1))
    assert spread.sample(3, 3, sampler=Euler(), respacing='ddim5').log_weight.shape == (3,)


ALONE = [name for name, kind in SAMPLERS.items() if kind().population == 1]


# One of several evaluations a step, and one that keeps earlier predictions.
@pytest.mark.parametrize('name', fast_for(ALONE, ('heun', 'unipc')))
def test_a_loop_by_hand(model, name):
    how = {'sampler': name, 'respacing': '4', 'scale': 5.0}
    parts = model.parts(model.request(2, [3, 4], **how))
    grid = jax.tree.map(jnp.asarray, parts.grid)

    @jax.jit
    def step(state, memory, i):
        transition = jax.tree.map(lambda a: a[i], grid)
        return parts.sampler.step(
            parts.denoise, state, memory, transition, lambda k: parts.noise_at(i + 1, k)
        )

    state, memory = parts.sampler.init(parts.x_T), parts.denoise.init(parts.x_T)
    for i in range(4):
        state, memory = step(state, memory, i)
    assert closeness(to_uint8(state.x), model.sample(2, [3, 4], **how)) <= 1


def brightness(model, request, scale):
    recipe = request.recipe
    guidance = (dataclasses.replace(recipe.guidance[0], scale=scale),)
    request = request._replace(recipe=dataclasses.replace(recipe, guidance=guidance))
    return generate(model.networks, model.params, request, remat=True).x_0.mean()


@pytest.mark.slow
def test_a_gradient_through_the_sampler(model):
    request = model.request(2, 3, sampler='ddim', respacing='3', clip=False)
    slope = jax.jit(jax.value_and_grad(brightness, argnums=2))
    (low, _), (_, gradient), (high, _) = (slope(model, request, scale) for scale in (9.9, 10.0, 10.1))
    assert gradient != 0
    np.testing.assert_allclose(gradient, (high - low) / 0.2, rtol=0.05)


def test_a_model_is_an_argument_of_a_jitted_function(model):
    @jax.jit
    def denoised(model, x):
        return model.at(2.0)(x)

    np.testing.assert_allclose(denoised(model, NOISE), model.at(2.0)(NOISE), atol=1e-4)
    zero = jax.tree.map(jnp.zeros_like, model)
    np.testing.assert_allclose(denoised(zero, NOISE), NOISE, atol=1e-6)  # eps is 0


def test_at_a_trained_level_it_is_the_prediction_there():
    model = make_model(CONDITIONAL_UNET, {'diffusion': random_params(CONDITIONAL_UNET)}, None).unguided()
    schedule, index, y = make_schedule('cosine', 100), 40, jnp.array([3, 4])
    alpha, sigma = np.sqrt(schedule.alpha_bar[index]), np.sqrt(1 - schedule.alpha_bar[index])
    level = Level(jnp.float32(index), jnp.float32(alpha), jnp.float32(sigma))
    denoise = make_denoiser(model.networks, model.params['diffusion'], y)
    expected = denoise(alpha * NOISE, level)[0].x_0
    traced = jax.jit(lambda sigma, y: model.at(sigma, y)(NOISE))
    np.testing.assert_allclose(traced(np.float32(sigma / alpha), y), expected, atol=2e-3)
    both = traced(np.float32([sigma / alpha, 1.0]), y)
    np.testing.assert_allclose(both[0], expected[0], atol=2e-3)
    for wrong in (None, -1, 10, [3, 10]):
        with refused('y'):
            model.at(1.0, wrong)
    for wrong in (0, -1.0, np.nan, 'x', [1.0, 0.0]):
        with refused('sigma', 0 if wrong == [1.0, 0.0] else wrong):
            model.at(wrong, 3)
    with refused('x', (2, 16, 16, 1), '8, 8, 1'):
        model.at(1.0, 3)(np.zeros((2, 16, 16, 1), np.float32))


@pytest.mark.slow
def test_eulers_method_of_edm_in_ten_lines_is_ddim(model):
    free, sigmas = model.unguided(), [9.0, 3.0, 1.0, 0.3, 0.1, 0.0]

    @jax.jit
    def euler(x):
        for here, there in itertools.pairwise(sigmas):
            slope = (x - free.at(here)(x)) / here
            x = x + (there - here) * slope
        return x

    respacing = f'sigma:{",".join(map(str, sigmas[:-1]))}'
    x = NOISE * np.sqrt(1 + sigmas[0] ** 2)  # x_T/alpha
    ours = free.sample(2, sampler='ddim', respacing=respacing, clip=False, x_T=NOISE, floats=True).x_0
    np.testing.assert_allclose(euler(x), ours, rtol=1e-3, atol=1e-2)
    guided = model.at(1.0, 3, recipe='paper')(NOISE)
    assert np.abs(guided - model.at(1.0)(NOISE)).max() > 1e-3


def test_the_network_is_asked_between_timesteps_or_at_the_nearest(model):
    found = {
        timesteps: model.unguided().sample(
            2, sampler='ddim', respacing='log_snr:4', timesteps=timesteps, floats=True
        )
        for timesteps in ('fractional', 'nearest')
    }
    assert np.abs(found['fractional'].x_0 - found['nearest'].x_0).max() > 1e-3
    t = make_schedule('cosine', 100)
    sigma = float(np.sqrt(1 / t.alpha_bar[40] - 1))
    same = (
        model.unguided().sample(2, sampler='ddim', respacing=f'sigma:{sigma}', timesteps=timesteps)
        for timesteps in ('fractional', 'nearest')
    )
    assert closeness(*same) <= 1


def test_an_image_sampler_keeps_no_weight(model):
    class Nothing(Sampler):
        def step(self, denoise, state, memory, transition, noise):
            return Image(0.5 * state.x), memory

    found = model.unguided().sample(2, sampler=Nothing(), respacing='2', floats=True)
    assert found.log_weight is None and np.isfinite(found.x_0).all()
