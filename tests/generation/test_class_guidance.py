"""Guidance for classes on a network: by name, from Python, and what each needs of the model."""

import dataclasses

import jax
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import (
    APG,
    ICG,
    PAG,
    SAG,
    AutoGuidance,
    CalibratedGuidance,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    CleanGuidance,
    EntropyGuidance,
    Interval,
    MixtureGuidance,
    Ramp,
    Rescale,
)
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM
from diffusion_jax.generation import load
from diffusion_jax.generation.guides import with_class_weights
from diffusion_jax.generation.loading import check_weak
from diffusion_jax.generation.options import read_guidance
from diffusion_jax.generation.program import sample_program
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.weights.released import RELEASED
from tests.errors import refused
from tests.generation.shared import STEPS, closeness, make_model, params, random_params
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, UNET

PAG_BLOCKS = ('encoder.14', 'encoder.16', 'encoder.17', 'middle')  # of the authors, for 256×256
ROW = 0.5 * np.eye(10)[7] + 0.25 * np.eye(10)[8]
X = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
TEXTS = {
    'entropy:scale=0.75,floor=0.05': EntropyGuidance(0.75, 0.05),
    'clean:scale=2': CleanGuidance(2.0),
    'calibrated:scale=2,tau_1=1.5,tau_2=0.25': CalibratedGuidance(2.0, 1.5, 0.25),
    'mixture:7=0.5,dog=1,scale=3': MixtureGuidance(((7, 0.5), ('dog', 1.0)), 3.0),
    'auto:scale=2/interval:low=0.3,high=5': Interval(AutoGuidance(2.0), 0.3, 5.0),
    'icg:scale=1.5/rescale:phi=0.5': Rescale(ICG(1.5), 0.5),
    'sag:scale=2,blur=1.5,threshold=0.9,block=middle': SAG(2.0, 1.5, 0.9, 'middle'),
    'pag:scale=3,blocks=middle encoder.1': PAG(3.0, ('middle', 'encoder.1')),
    'classifier_free:scale=4/apg:radius=2.5,momentum=-0.75,eta=0.1/ramp:noisy=0.5,clean=1': Ramp(
        APG(ClassifierFreeGuidance(4.0), 0.1, 2.5, -0.75), 0.5, 1.0
    ),
}


@pytest.mark.parametrize('text', TEXTS)
def test_texts(text):
    assert read_guidance(text) == (TEXTS[text],)


def estimate(model, guidance, y=(3, 4)):
    recipe = Recipe(DDIM(), guidance, '', clip=False)
    return model.at(2.0, np.int32(y), recipe=recipe)(X)


@pytest.mark.parametrize('guidance', [AutoGuidance(2.5), PAG(2.5), SAG(2.5), ClassifierFreeGuidance(2.5)])
def test_extrapolation_of_what_two_networks_estimate(guidance, guided_model):
    strong = estimate(guided_model, ())
    if isinstance(guidance, AutoGuidance):
        weak = guided_model.params['weak']
        weak = dataclasses.replace(guided_model.unguided(), unet=UNET, params={'diffusion': weak})
        weak = estimate(weak, ())
    else:
        weak = estimate(guided_model, (dataclasses.replace(guidance, scale=0.0),))
        assert np.abs(weak - strong).max() > 1e-3
    expected = weak + 2.5 * (strong - weak)
    np.testing.assert_allclose(estimate(guided_model, (guidance,)), expected, rtol=1e-3, atol=1e-3)


def test_a_random_class_is_one_of_the_classes(guided_model):
    """At w = 0 an image is that of another class, which depends on the image and not on y."""
    each = np.stack([estimate(guided_model, (), (k, k)) for k in range(10)])
    found = estimate(guided_model, (ICG(0.0),))
    distance = np.abs(found - each).max(axis=(2, 3, 4))
    np.testing.assert_allclose(distance.min(axis=0), 0, atol=1e-4)
    np.testing.assert_array_equal(found, estimate(guided_model, (ICG(0.0),), (5, 6)))


@pytest.mark.parametrize('weights', [{7: 0.5, 8: 0.25}, ((7, 0.5), (8, 0.25)), 2 * ROW])
def test_weights_of_classes(weights, guided_model):
    """The gradient is that of the weighted sum of probabilities; y matters to the network alone."""
    free = make_model(UNET, params() | {'diffusion': random_params(UNET)})
    found = free.sample(2, guidance=MixtureGuidance(weights, 20.0), **STEPS)
    rows = np.tile(ROW, (2, 1))
    assert closeness(found, free.sample(2, guidance=MixtureGuidance(rows, 20.0), **STEPS)) <= 1
    assert closeness(found, free.sample(2, guidance='mixture:7=1,scale=20', **STEPS)) > 1
    one = free.sample(2, 7, guidance='classifier:scale=20', **STEPS)
    assert closeness(free.sample(2, guidance='mixture:7=1,scale=20', **STEPS), one) <= 1


def test_weights_of_classes_of_unknown_number_end_at_the_largest_class():
    recipe = Recipe(guidance=(MixtureGuidance({2: 0.5, 0: 1.0}),))
    (found,) = with_class_weights(recipe, 2, None).guidance
    np.testing.assert_array_equal(found.weights, [[1, 0, 0.5]] * 2)


def test_weights_of_classes_that_are_refused(guided_model):
    wrong = {'class': {10: 1.0}, 'zero': {3: 0.0}, 'negative': np.eye(10)[3] - 0.1, 'shape': np.ones(9)}
    for weights in (*wrong.values(), {'dog': 1.0}, {3: np.nan}, {(3, 4): 1.0}):
        with refused('weights'):
            guided_model.sample(2, 3, guidance=MixtureGuidance(weights), **STEPS)


def test_the_factor_of_the_entropy(guided_model):
    """The update of x_0 is that of the classifier times log K/H at x_t."""
    strong = estimate(guided_model, ())
    guidances = ClassifierGuidance(1.0), EntropyGuidance(1.0)
    plain, ours = (estimate(guided_model, (guidance,)) - strong for guidance in guidances)
    factor = np.sum(ours * plain, axis=(1, 2, 3)) / np.sum(plain**2, axis=(1, 2, 3))
    np.testing.assert_allclose(ours, factor[:, None, None, None] * plain, rtol=1e-2, atol=1e-5)
    assert (factor > 1).all()


def test_images_depend_on_their_index_alone(guided_model):
    text = 'icg:scale=1.5/apg:momentum=-0.5/interval:low=0.3 + pag:scale=2/rescale + entropy:scale=2'
    pair = guided_model.sample(2, [3, 4], guidance=text, **STEPS)
    second = guided_model.sample(1, 4, first=1, guidance=text, **STEPS)
    assert np.abs(np.int32(pair.images[1]) - second.images[0]).max() <= 1
    assert pair.evaluations == 5


def test_what_a_guidance_needs():
    lone = make_model(UNET, {'diffusion': random_params(UNET)}, classifier=None)
    for text in ('entropy', 'mixture:3=1', 'clean', 'calibrated'):
        with refused('recipe', 'classifier'):
            lone.sample(2, guidance=text, **STEPS)
    with refused('guidance', 'auto', 'weak'):
        lone.sample(2, guidance='auto', **STEPS)
    with refused('guidance', 'icg'):
        lone.sample(2, guidance='icg', **STEPS)
    with refused('guidance.blocks', 'encoder.1', 'middle'):
        lone.sample(2, guidance='pag:blocks=encoder.1', **STEPS)
    with refused('y', None):
        make_model().sample(2, guidance='entropy', **STEPS)
    own = CalibratedGuidance(1.0, logits=lambda x_0, level: x_0[:, 0, :, 0])
    with refused('y', None):
        lone.sample(2, guidance=own, **STEPS)
    assert closeness(lone.sample(2, 3, guidance=own, **STEPS), lone.sample(2, guidance='', **STEPS)) > 1


def save(path, network, tree, process=DIFFUSION):
    save_weights(path, Spec(network, process), tree)
    return path


def test_a_weak_model_is_loaded(tmp_path, guided_model):
    strong = save(tmp_path / 'strong.safetensors', CONDITIONAL_UNET, random_params(CONDITIONAL_UNET))
    weak = save(tmp_path / 'weak.safetensors', UNET, random_params(UNET, 4))
    model = load(strong, weak=weak)
    assert 'weak' in repr(model) and model.unguided().weak is None
    expected = estimate(dataclasses.replace(guided_model, unet=CONDITIONAL_UNET), (AutoGuidance(2.0),))
    np.testing.assert_allclose(estimate(model, (AutoGuidance(2.0),)), expected, atol=1e-4)


def test_weak_models_that_are_refused(tmp_path):
    def stored(name, network, process=DIFFUSION):
        return save(tmp_path / name, network, random_params(network), process)

    strong = stored('strong.safetensors', UNET)
    wrong = {
        stored('conditional.safetensors', CONDITIONAL_UNET): 'num_classes',
        stored('classifier.safetensors', CLASSIFIER): 'classifier',
        stored('other.safetensors', UNET, DiffusionConfig(num_timesteps=50)): 'schedule',
    }
    for path, value in wrong.items():
        with refused(path.name, value):
            load(strong, weak=path)


def test_the_released_unconditional_model_is_a_weak_one():
    strong, weak = (
        Spec(RELEASED[name].network, RELEASED[name].diffusion)
        for name in ('256x256_diffusion', '256x256_diffusion_uncond')
    )
    check_weak(weak, strong, 'weak')
    with refused('weak', 'num_classes'):
        check_weak(strong, weak, 'weak')
    assert set(PAG_BLOCKS) < set(models.attention_blocks(strong.network))


def test_a_program_that_is_planned(guided_model):
    guidance = read_guidance('auto:scale=2/apg + mixture:7=0.5,8=0.5/ramp')
    recipe = Recipe(DDIM(), guidance, 'uniform:4')
    function, arguments = sample_program(guided_model.networks, recipe, guided_model.mesh, 2)[:2]
    state, _ = jax.eval_shape(function, *arguments)
    assert state.x.shape == (2, 8, 8, 1)


def test_blocks_with_attention():
    deep = dataclasses.replace(UNET, channel_mult=(1, 1), attention_resolutions=(4,))
    assert models.attention_blocks(deep) == ('encoder.3', 'middle', 'decoder.0', 'decoder.1')
