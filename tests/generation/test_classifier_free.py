"""Classifier-free guidance."""

import dataclasses

import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM
from diffusion_jax.generation.networks import Networks
from tests.errors import refused
from tests.generation.shared import STEPS, closeness, make_model, params, random_params
from tests.tiny import CONDITIONAL_UNET, DIFFUSION

NETWORK = dataclasses.replace(CONDITIONAL_UNET, label_dropout=0.1)
NOISE = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)


def make(network=NETWORK):
    recipes = (('free', Recipe(DDIM(), (ClassifierFreeGuidance(),), 'ddim5')),)
    return make_model(network, params() | {'diffusion': random_params(network)}, recipes=recipes)


@pytest.fixture(scope='module')
def model():
    return make()


def test_between_no_class_and_beyond_the_class(model, compilations):
    class_alone = model.sample(2, 3, guidance='', **STEPS)
    found = model.sample(2, 3)
    compilations.clear()
    assert closeness(found, class_alone) <= 1  # w = 1
    no_class = model.sample(2, 3, scale=0)
    assert closeness(no_class, model.sample(2, 7, scale=0)) == 0
    assert closeness(no_class, model.sample(2, -1, guidance='', **STEPS)) <= 1
    each = model.sample(2, 3, scale=[0, 4]).images
    assert closeness(each[0], no_class.images[0]) <= 1 < closeness(each[1], found.images[1])
    assert compilations == []
    assert found.evaluations == 5


def test_it_extrapolates_what_the_network_says_of_x_0(model):
    def denoised(y, scale=None):
        guidance = () if scale is None else (ClassifierFreeGuidance(scale),)
        return model.at(2.0, y, recipe=Recipe(DDIM(), guidance, '', clip=False))(NOISE)

    weak, strong = denoised(-1), denoised(3)
    np.testing.assert_allclose(denoised(3, 2.5), weak + 2.5 * (strong - weak), rtol=1e-3, atol=1e-3)


def test_it_works_beside_a_classifier(model):
    both = [ClassifierFreeGuidance(2.0), ClassifierGuidance(50.0)]
    found = model.sample(2, 3, guidance=both)
    assert closeness(found, model.sample(2, 3, guidance=both[0])) > 1
    assert closeness(found, model.sample(2, 3, guidance=both[1])) > 1
    text = 'classifier_free:scale=2/interval:low=1 + classifier:scale=50'
    assert closeness(found, model.sample(2, 3, guidance=text)) > 1


def test_it_needs_a_class_and_a_null_class(model):
    with refused('y', None):
        model.sample(2)
    with refused('y', -1):
        model.sample(2, -1, guidance='classifier:scale=1', **STEPS)
    weak = dataclasses.replace(model, weak=Networks(CONDITIONAL_UNET, DIFFUSION, mesh=model.mesh))
    with refused('y', -1):
        weak.sample(2, -1, guidance='auto', **STEPS)
    for other in (make(CONDITIONAL_UNET), make_model()):
        with refused('guidance', 'label_dropout'):
            other.sample(2, 3, guidance='classifier_free', **STEPS)
    with refused('y', -1):
        make(CONDITIONAL_UNET).sample(2, -1, guidance='', **STEPS)
