"""Other numbers compile nothing: whatever the sampler and the guidance."""

import dataclasses

import jax
import pytest

from diffusion_jax.diffusion.guidance import (
    APG,
    GUIDANCES,
    MODIFIERS,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Extrapolation,
    MixtureGuidance,
    Rescale,
    Reward,
)
from diffusion_jax.diffusion.parts import Part, options
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, SAMPLERS
from tests.tiers import fast_for

CLASSIFIER = ClassifierGuidance()
FIELDS = {MixtureGuidance: {'weights': {3: 0.5, 4: 0.5}}}  # those without a default
EXTRAPOLATIONS = [guidance for guidance in GUIDANCES.values() if issubclass(guidance, Extrapolation)]
GRADIENTS = [guidance for guidance in GUIDANCES.values() if guidance not in (*EXTRAPOLATIONS, Reward)]
SCALES = [modifier for modifier in MODIFIERS.values() if modifier not in (Rescale, APG)]
RECIPES = (
    {
        name: Recipe(sampler(), (CLASSIFIER,), 'uniform:5')
        for name, sampler in SAMPLERS.items()
        if sampler().population == 1  # test_populations.py
    }
    | {modifier.__name__: Recipe(DDIM(), (modifier(CLASSIFIER),), 'uniform:5') for modifier in SCALES}
    | {
        'gradients': Recipe(DDIM(), tuple(each(**FIELDS.get(each, {})) for each in GRADIENTS), 'uniform:4'),
        'extrapolations': Recipe(DDIM(), tuple(each(2.0) for each in EXTRAPOLATIONS), 'uniform:4'),
        'projections': Recipe(DDIM(), (Rescale(APG(ClassifierFreeGuidance(2.0))),), 'uniform:4'),
    }
)

# tests/diffusion/samplers/test_family.py changes the numbers of every sampler in the fast tier.
FAST = ('ddpm', 'tfg', 'Reuse', 'Adam', 'extrapolations', 'projections')


def others(part):
    """A part in which every number is another one."""
    if isinstance(part, tuple):
        return tuple(map(others, part))
    if not isinstance(part, Part):
        return part
    numbers = options(part)

    def other(name):
        value = getattr(part, name)
        if name not in numbers:
            return others(value)
        limits = numbers[name].metadata
        if limits['whole']:
            return value + 1 if value < limits['most'] else value - 1
        return limits['least'] + (0.25 if value != 0.25 else 0.5)

    return dataclasses.replace(part, **{field.name: other(field.name) for field in dataclasses.fields(part)})


def test_other_numbers_are_others():
    recipe = others(Recipe(DDIM(), (MODIFIERS['reuse'](CLASSIFIER),)))
    assert recipe == Recipe(DDIM(0.25), (MODIFIERS['reuse'](ClassifierGuidance(0.25), 3),))


@pytest.mark.parametrize('name', fast_for(RECIPES, FAST))
def test_other_numbers_compile_nothing(guided_model, name, compilations):
    jax.clear_caches()  # another test may have compiled this program
    recipe = RECIPES[name]
    first = guided_model.sample(2, 3, recipe=recipe)
    assert any('advance' in name for name in compilations)
    compilations.clear()
    again = guided_model.sample(2, [1, 2], recipe=others(recipe), seed=7, first=5)
    guided_model.sample(2, 3, recipe=recipe, scale=[0.5, 3])
    assert compilations == []
    assert (first.images != again.images).any() and first.evaluations == again.evaluations
