"""All guidances on one recipe, as `generation` stacks them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Interval,
    Models,
    ReconstructionGuidance,
    Reuse,
)
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, sample
from tests.diffusion.guidance.calls import GRID, MIXTURE, SIGMAS, START, Calls, run

STRONG = MIXTURE.only(1).denoiser()


def likelihood(x_0, level):
    return -0.5 * jnp.sum((x_0 - 0.3) ** 2, axis=(1, 2, 3))


RECIPE = Recipe(
    guidance=(
        Interval(ClassifierFreeGuidance(2.0), 0.2, 20.0),
        ReconstructionGuidance(0.5, log_prob=likelihood),
        Reuse(ClassifierGuidance(1.5), 2),
        Interval(Reuse(ClassifierGuidance(0.5, log_prob=MIXTURE.class_log_prob(0)), 3), 0.2, 5.0),
    )
)


def wrap(guidances, models, denoise=STRONG):
    for guidance in guidances:
        denoise = guidance.wrap(denoise, models)
    return denoise


def test_every_guidance_asks_when_it_should():
    null, classifier = Calls(), Calls()
    models = Models(classifier.of(MIXTURE.class_log_prob(2)), plain(null.of(MIXTURE.predict)))
    run(wrap(RECIPE.guidance, models))
    np.testing.assert_allclose(classifier.take(), SIGMAS[::2], rtol=1e-4)
    np.testing.assert_allclose(null.take(), [10.0, 3.0, 1.0, 0.3], rtol=1e-4)


def count(jaxpr, name):
    """The number of calls of a jitted function in a program, also inside of branches."""
    inside = sum(count(inner, name) for each in jaxpr.eqns for inner in jaxprs_in_params(each.params))
    return inside + sum(each.params.get('name') == name for each in jaxpr.eqns)


CLASSIFIER = ClassifierGuidance(1.5, log_prob=MIXTURE.class_log_prob(2))


@pytest.mark.parametrize(
    'guidances',
    [
        (CLASSIFIER,),
        (Interval(CLASSIFIER, 0.2, 5.0),),
        (Reuse(CLASSIFIER, 2),),
        (Interval(Reuse(CLASSIFIER, 2), 0.2, 5.0),),
        (Reuse(Interval(CLASSIFIER, 0.2, 5.0), 3), Interval(Reuse(CLASSIFIER, 2), 0.2, 5.0)),
    ],
    ids=['classifier', 'interval', 'reuse', 'reuse/interval', 'two'],
)
def test_with_classifier_guidance_a_program_contains_the_denoiser_once(guidances):
    @jax.jit
    def network(x_t, level):
        return MIXTURE.predict(x_t, level)

    denoise = wrap(guidances, Models(), plain(network))
    level = jax.tree.map(lambda a: a[0], GRID.level)
    program = jax.make_jaxpr(denoise.call)(START, level, denoise.init(START))
    assert count(program.jaxpr, 'network') == 1


def test_numbers_of_all_guidances_are_traced():
    traced = []
    models = Models(MIXTURE.class_log_prob(2), MIXTURE.denoiser())

    @jax.jit
    def image(recipe):
        traced.append(recipe)
        denoise = wrap(recipe.guidance, models)
        return sample(DDIM(), denoise, GRID, lambda position, i: 0 * START, START)[0].x

    first = image(RECIPE)
    other = image(jax.tree.map(lambda number: number + 1, RECIPE))
    assert len(traced) == 1
    assert np.isfinite(first).all()
    assert np.abs(other - first).max() > 1e-3


def test_without_effect_it_is_the_model():
    nothing = jax.tree.map(lambda number: number, RECIPE).with_scale(0.0).guidance[1:]
    models = Models(MIXTURE.class_log_prob(2), MIXTURE.denoiser())
    np.testing.assert_allclose(run(wrap(nothing, models))[0], run(STRONG)[0], atol=1e-5)
