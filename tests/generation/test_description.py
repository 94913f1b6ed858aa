"""How a model is printed."""

import dataclasses

import pytest

from diffusion_jax.diffusion.guidance import Scheduled
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.generation.description import describe_recipe
from diffusion_jax.generation.options import read_guidance
from tests.generation.shared import make_model
from tests.tiny import UPSAMPLER

NO_PARAMS = {'diffusion': {}, 'classifier': {}}


@pytest.fixture
def model():
    return make_model(tree=NO_PARAMS)


def test_a_model_in_a_notebook_is_one_line(model):
    default = 'sampler ddpm, respacing 5, guidance classifier:scale=3.0'
    assert (
        repr(model) == f'Generator(8×8×1, with a classifier; default: {default}; recipes: paper, paper-ddim)'
    )
    named = repr(dataclasses.replace(model.unguided(), classes=('cat', 'flower')))
    assert named.startswith('Generator(8×8×1, no classifier, 2 classes: cat, flower; default: sampler ddpm,')
    assert 'respacing 5, unguided; recipes: paper' in named


@pytest.mark.parametrize(('size', 'text'), [((4, 4), '4×4'), (None, 'smaller images')])
def test_an_upsampler_is_printed_as_one(size, text):
    model = make_model(UPSAMPLER, NO_PARAMS, None, (('plain', Recipe(respacing='')),))
    printed = repr(dataclasses.replace(model, low_res_size=size))
    assert printed == (
        f'Generator(upsampler from {text} to 8×8×1, no classifier; '
        'default: sampler ddpm, all timesteps, unguided; recipes: plain)'
    )


def test_guidances_of_every_kind_are_printed():
    def mirrored(denoise):
        return denoise

    guidance = read_guidance(['classifier_free/interval:high=5', mirrored, Scheduled('clean', float)])
    text = 'classifier_free:scale=1.0/interval:high=5.0 + mirrored + clean:scale=1.0/Scheduled'
    assert describe_recipe(Recipe(guidance=guidance)).endswith(f', guidance {text}')


def test_a_recipe_of_texts_is_printed_as_what_it_means():
    texts = Recipe(sampler='ddim:eta=1', guidance='classifier/reuse:every=3')
    expected = 'sampler ddim:eta=1.0, respacing 250, guidance classifier:scale=1.0/reuse:every=3'
    assert describe_recipe(texts) == expected


def test_recipes_are_printed_with_their_marks(model):
    marked = dataclasses.replace(model, marks=(('paper', 'FID 4.59 (2105.05233, table 5)'),))
    assert repr(marked).splitlines() == [
        'Generator(8×8×1, with a classifier; default: '
        'sampler ddpm, respacing 5, guidance classifier:scale=3.0; recipes:',
        '    paper: FID 4.59 (2105.05233, table 5)',
        '    paper-ddim)',
    ]
    assert 'FID' not in repr(marked.unguided())
