"""Two stages as one model: which images, noise, labels and options each stage gets."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDPM
from diffusion_jax.generation.cascade import upsampler_seed
from diffusion_jax.generation.sampling import generate, sample_keys
from diffusion_jax.models import param_shapes
from diffusion_jax.weights.known import MODELS
from tests.errors import refused
from tests.generation.shared import assert_equal, closeness, make_model, params, random_params
from tests.tiny import CONDITIONAL_UNET, UNET, UPSAMPLER

LARGE = dataclasses.replace(UPSAMPLER, image_size=(24, 24), num_classes=10)
PLAIN = (('plain', Recipe(DDPM(), (), '3')),)
NAMES = tuple('abcdefghij')


def upsampler(unet=LARGE, **changes):
    model = make_model(unet, {'diffusion': random_params(unet)}, None, PLAIN)
    return dataclasses.replace(model, **{'low_res_size': (8, 8)} | changes)


@functools.cache
def base():
    recipes = (
        ('guided', Recipe(DDPM(), (ClassifierGuidance(3.0),), '3')),
        ('more', Recipe(DDPM(), (ClassifierGuidance(30.0),), '3')),
    )
    tree = params() | {'diffusion': random_params(CONDITIONAL_UNET)}
    return dataclasses.replace(make_model(CONDITIONAL_UNET, tree, recipes=recipes), classes=NAMES)


@pytest.fixture(scope='module')
def cascade():
    return base().then(upsampler())


def test_it_is_the_base_and_then_the_upsampler_of_its_images(cascade):
    """With a factor of 3."""
    y = [3, 3, 9, 0]
    found = cascade.sample(4, y, seed=5, first=2)
    small = base().sample(4, y, seed=5, first=2)
    assert_equal(found.base, small)
    large = upsampler().sample(4, y, low_res=small.images, seed=upsampler_seed(5), first=2)
    assert_equal(found, large)
    assert found.images.shape == (4, 24, 24, 1) and found.evaluations == found.base.evaluations == 3
    assert_equal(found, cascade.sample(4, ['d', 'd', 'j', 'a'], seed=5, first=2))


def test_an_image_depends_on_its_index_alone(cascade):
    together = cascade.sample(4, [1, 2, 3, 4], seed=1)
    for i in range(4):
        alone = cascade.sample(1, i + 1, seed=1, first=i)
        assert closeness(together.images[i : i + 1], alone) <= 1
        assert closeness(together.base.images[i : i + 1], alone.base) <= 1
    assert closeness(together.images[:1], cascade.sample(1, 1, seed=2)) > 1


def test_no_image_of_a_stage_has_the_noise_of_the_other():
    """The keys of many images of several seeds, of both stages, are all different."""
    seeds = [*range(20), 2**32 - 1]
    seeds += [upsampler_seed(seed) for seed in seeds]
    index = np.arange(50)
    keys = [jax.random.key_data(sample_keys(np.uint32(seed), index)) for seed in seeds]
    assert len(np.unique(np.concatenate(keys), axis=0)) == len(seeds) * len(index)


def test_options_of_one_stage(cascade):
    plain = cascade.sample(4, 3)
    other = cascade.sample(4, 3, base={'recipe': 'more'}, upsampler={'floats': True})
    assert_equal(other.base, base().sample(4, 3, scale=30.0))
    assert closeness(other, plain) > 1 and other.x_0.shape == (4, 24, 24, 1)
    again = cascade.sample(4, 3, upsampler={'low_res_noise': 0.5})
    assert_equal(again.base, plain.base)
    assert closeness(again, plain) > 1


def test_another_seed_compiles_nothing(cascade, compilations):
    cascade.sample(4, 3)
    compilations.clear()
    cascade.sample(4, 5, seed=9)
    assert not compilations


@pytest.mark.parametrize(
    ('where', 'changed', 'value'),
    [
        ('base', UPSAMPLER, 'upsampler'),
        ('base', dataclasses.replace(CONDITIONAL_UNET, image_size=(16, 8)), '16×8'),
        ('base', dataclasses.replace(CONDITIONAL_UNET, image_channels=3), 'channels'),
        ('base', dataclasses.replace(CONDITIONAL_UNET, num_classes=7), '7'),
    ],
)
def test_a_base_that_does_not_fit_is_refused(where, changed, value):
    with refused(where, value):
        make_model(changed, {}, None).then(upsampler())


def test_a_base_that_is_too_large_is_refused_if_the_size_is_unknown():
    unknown = upsampler(low_res_size=None)
    assert make_model(CONDITIONAL_UNET, {}, None).then(unknown).upsampler is unknown
    with refused('base', '24×8'):
        make_model(dataclasses.replace(CONDITIONAL_UNET, image_size=(24, 8)), {}, None).then(unknown)


def test_what_follows_must_be_an_upsampler_of_the_same_classes():
    for wrong in (base(), 'runs/up'):
        with refused('upsampler', 'no upsampler'):
            base().then(wrong)
    with refused('base', "'a', not 'j'"):
        base().then(upsampler(classes=NAMES[::-1]))


@pytest.mark.parametrize(
    ('where', 'arguments', 'value'),
    [
        ('y', {}, 'None'),
        ('seed', {'y': 1, 'seed': -1}, -1),
        ('num_images', {'num_images': 0}, 0),
        ('scale', {'y': 1, 'scale': 2.0}, "base={'scale'"),
        ('base', {'y': 1, 'base': 'ddim'}, 'dict'),
        ("base['seed']", {'y': 1, 'base': {'seed': 3}}, 'both'),
        ("upsampler['low_res']", {'y': 1, 'upsampler': {'low_res': None}}, 'both'),
        ('low_res_noise', {'y': 1, 'upsampler': {'low_res_noise': 1.0}}, '1.0'),
        ('low_res_noise', {'y': 1, 'base': {'low_res_noise': 0.1}}, 'upsampler'),
    ],
)
def test_arguments_that_are_refused(cascade, where, arguments, value):
    with refused(where, value):
        cascade.sample(**{'num_images': 2} | arguments)


def test_mistakes_about_the_upsampler_come_before_the_base_is_sampled(monkeypatch):
    plain = make_model(UNET, {'diffusion': random_params(UNET)}, None, PLAIN)
    monkeypatch.setattr(type(plain), 'sample', None)
    with refused('y', 'None'):
        plain.then(upsampler()).sample(2)


def test_images_to_enlarge_have_the_size_in_training():
    with refused('low_res', '(2, 8, 8, 1)'):
        upsampler().sample(2, 3, low_res=np.zeros((2, 6, 8, 1), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'enlarging'),
    [('64x64_diffusion', '64_256_upsampler'), ('128x128_diffusion', '128_512_upsampler')],
)
def test_released_upsamplers_at_full_size(name, enlarging):
    """Shapes alone: the networks, recipes and sizes of both stages fit; allocates no parameters."""

    def model(name):
        released = MODELS[name]
        shapes = {'diffusion': param_shapes(released.network)}
        made = make_model(released.network, shapes, None, released.recipes)
        return dataclasses.replace(made, diffusion=released.diffusion, low_res_size=released.low_res_size)

    pair = model(name).then(model(enlarging))
    size = MODELS[enlarging].low_res_size
    request = pair.upsampler.request(1, 207, low_res=np.zeros((1, *size, 3), np.uint8))
    found = jax.eval_shape(
        functools.partial(generate, pair.upsampler.networks), pair.upsampler.params, request
    )
    assert found.images.shape == (1, 4 * size[0], 4 * size[1], 3) and found.evaluations == 250
