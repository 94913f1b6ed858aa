"""The table of released models, against the flags and shapes that were recorded from the authors' code."""

import dataclasses
import gzip
import json
import math
import re
from pathlib import Path

import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import ClassifierGuidance, EntropyGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM, DPMSolverPP2M, Heun
from diffusion_jax.models import (
    ClassifierConfig,
    UNetConfig,
    check_classifier,
    check_unet,
    describe_network,
    network_of,
)
from diffusion_jax.recipes import network as network_section
from diffusion_jax.weights.known import MODELS, published_recipes, resembling
from diffusion_jax.weights.published import NOT_MEASURED
from diffusion_jax.weights.reference import reference_shapes
from diffusion_jax.weights.released import LINEAR, RELEASED
from tests.parity.models import config_from_release

with gzip.open(Path(__file__).parent.parent / 'golden' / 'released_shapes.json.gz', 'rt') as file:
    RECORDED = json.load(file)

# One of each kind; tracing the others, which differ in size only, takes a while.
FAST = ('64x64_diffusion', '64_256_upsampler', '64x64_classifier')
DIFFUSION_MODELS = [name for name, model in RELEASED.items() if isinstance(model.network, UNetConfig)]
CLASSIFIERS = [name for name in RELEASED if name not in DIFFUSION_MODELS]


def recorded_shapes(name):
    return {key: tuple(shape) for key, (shape, _) in RECORDED[name]['state_dict'].items()}


def effective(network):
    """The network without settings that other settings disable."""
    if network.num_head_channels is not None:
        network = dataclasses.replace(network, num_heads=4)
    if isinstance(network, UNetConfig) and network.num_heads_upsample == network.num_heads:
        network = dataclasses.replace(network, num_heads_upsample=None)
    return network


def test_there_are_the_fifteen_of_the_release():
    assert set(RELEASED) == set(RECORDED)
    assert len(RELEASED) == 15


@pytest.mark.parametrize('name', RELEASED)
def test_networks_are_those_of_the_recorded_flags(name):
    recorded = RECORDED[name]
    network = config_from_release(recorded['module'], recorded['module_args'], recorded['resolved'])
    assert effective(RELEASED[name].network) == effective(network)


@pytest.mark.parametrize('name', RELEASED)
def test_networks_pass_their_checks(name):
    network = RELEASED[name].network
    (check_unet if isinstance(network, UNetConfig) else check_classifier)(network)
    assert network_of(describe_network(network)) == dataclasses.replace(network, dropout=0.0)


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in RELEASED]
)
def test_keys_and_shapes(name):
    shapes = reference_shapes(RELEASED[name].network)
    assert list(shapes.items()) == list(recorded_shapes(name).items())
    assert sum(math.prod(shape) for shape in shapes.values()) == RECORDED[name]['total_params']


@pytest.mark.parametrize('name', DIFFUSION_MODELS)
def test_processes_are_those_of_the_recorded_flags(name):
    flags = RECORDED[name]['resolved']
    assert flags['learn_sigma'] and not flags['predict_xstart']
    assert not flags['use_kl'] and not flags['rescale_learned_sigmas']
    assert RELEASED[name].diffusion == DiffusionConfig(
        schedule=flags['noise_schedule'],
        num_timesteps=flags['diffusion_steps'],
        rescale_timesteps=flags['rescale_timesteps'],
        prediction='eps',
        variance='learned_range',
        loss='mse',
    )


def test_what_is_guided_has_a_classifier_of_its_size():
    for name in DIFFUSION_MODELS:
        model = RELEASED[name]
        network, recipes, classifier = model.network, model.recipes, model.classifier
        assert [name for name, _ in recipes[:2]] == ['paper', 'paper-ddim']
        assert all(bool(classifier) == (recipe.needs_classifier) for _, recipe in recipes[:2])
        assert all(classifier or not recipe.needs_classifier for _, recipe in recipes)
        if classifier:
            assert isinstance(RELEASED[classifier].network, ClassifierConfig)
            assert RELEASED[classifier].network.image_size == network.image_size
            assert RELEASED[classifier].diffusion.levels == model.diffusion.levels
    assert all(RELEASED[name][3:5] == ((), '') for name in CLASSIFIERS)


@pytest.mark.parametrize(
    ('name', 'respacing', 'scale', 'ddim_scale'),
    [
        ('64x64_diffusion', '250', 1.0, 1.0),
        ('128x128_diffusion', '250', 0.5, 1.25),
        ('256x256_diffusion', '250', 1.0, 2.5),
        ('256x256_diffusion_uncond', '250', 10.0, 10.0),
        ('512x512_diffusion', '250', 4.0, 9.0),
        ('64_256_upsampler', '250', 0.0, 0.0),
        ('128_512_upsampler', '250', 0.0, 0.0),
        ('lsun_bedroom', '', 0.0, 0.0),
        ('lsun_cat', '', 0.0, 0.0),
        ('lsun_horse', '', 0.0, 0.0),
        ('lsun_horse_nodropout', '', 0.0, 0.0),
    ],
)
def test_recipes_of_the_paper(name, respacing, scale, ddim_scale):
    """Table 14, and the flags of the authors' README."""

    def guidance(scale):
        return (ClassifierGuidance(scale),) if scale else ()

    assert dict(RELEASED[name].recipes[:2]) == {
        'paper': Recipe(DDPM(), guidance(scale), respacing),
        'paper-ddim': Recipe(DDIM(), guidance(ddim_scale), 'ddim25'),
    }


def recipes_of(network, process, guided):
    return tuple((each.name, each.recipe) for each in published_recipes(network, process, guided=guided))


def test_recipes_are_found_by_network_and_process():
    for model in (RELEASED[name] for name in DIFFUSION_MODELS):
        network, process, guided = model.network, model.diffusion, bool(model.classifier)
        other = dataclasses.replace(network, dtype='bfloat16', remat=True, dropout=0.3)
        assert recipes_of(other, process, guided) == model.recipes
        dropped = dataclasses.replace(network, label_dropout=0.1)
        assert recipes_of(dropped, process, guided) == model.recipes
        longer = dataclasses.replace(process, num_timesteps=4321)
        assert published_recipes(network, longer, guided=guided) == ()


def test_every_recipe_is_marked():
    """With a figure and its source (arXiv number), or as not measured."""
    for name, model in MODELS.items():
        for guided in (True, False):
            for recipe, mark in model.marks(guided):
                figure = re.fullmatch(r'FID \d+\.\d\d.* \(\d{4}\.\d{5}, .+\)', mark)
                assert figure or mark == NOT_MEASURED, (name, recipe, mark)


@pytest.mark.parametrize(
    ('name', 'recipe', 'figures'),
    [
        ('64x64_diffusion', 'paper', ('2.07 at scale 0', '2.07')),
        ('64x64_diffusion', 'edm', ('1.55', '1.55')),
        ('128x128_diffusion', 'paper', ('2.97', '5.91')),
        ('128x128_diffusion', 'paper-ddim', ('5.98', None)),
        ('256x256_diffusion', 'paper', ('4.59', '10.94')),
        ('256x256_diffusion', 'paper-ddim', ('5.44', None)),
        ('256x256_diffusion_uncond', 'paper', ('12.00', '26.21')),
        ('128x128_diffusion', 'eds', ('2.63', None)),
        ('256x256_diffusion', 'eds', ('3.96', None)),
        ('256x256_diffusion', 'eds-ddim', ('4.76', None)),
        ('256x256_diffusion_uncond', 'eds', ('7.98', None)),
        ('256x256_diffusion_uncond', 'eds-ddim', ('10.09', None)),
        ('512x512_diffusion', 'paper', ('7.72', '23.24')),
        ('512x512_diffusion', 'paper-ddim', ('8.41', None)),
        ('lsun_bedroom', 'paper', ('1.90', '1.90')),
        ('lsun_cat', 'paper', ('5.57', '5.57')),
        ('lsun_horse', 'paper', ('2.57', '2.57')),
        ('lsun_horse_nodropout', 'paper', ('2.95', '2.95')),
        ('256x256_diffusion', 'fast-10', (None, None)),
    ],
)
def test_published_figures(name, recipe, figures):
    """2105.05233, tables 4 and 5, with and without the classifier; None is not measured."""
    for guided, figure in zip((True, False), figures, strict=True):
        mark = dict(RELEASED[name].marks(guided))[recipe]
        assert mark.startswith(f'FID {figure} (') if figure else mark == NOT_MEASURED


def test_recipes_of_others():
    edm = dict(RELEASED['64x64_diffusion'].recipes)['edm']
    assert edm == Recipe(Heun(40.0, 0.05, 50.0, 1.003), (), 'karras:256', timesteps='nearest')
    scales = {'256x256_diffusion': (0.75, 1.5), '256x256_diffusion_uncond': (6.0, 6.0)}
    assert dict(RELEASED['128x128_diffusion'].recipes)['eds'] == Recipe(
        DDPM(), (EntropyGuidance(0.4),), '250'
    )
    for name, (scale, ddim_scale) in scales.items():
        recipes = dict(RELEASED[name].recipes)
        assert recipes['eds'] == Recipe(DDPM(), (EntropyGuidance(scale),), '250')
        assert recipes['eds-ddim'] == Recipe(DDIM(), (EntropyGuidance(ddim_scale),), 'ddim25')
    for name in DIFFUSION_MODELS:
        recipes = dict(RELEASED[name].recipes)
        assert recipes['fast-10'] == Recipe(DPMSolverPP2M(), (), 'log_snr:10')
        assert recipes['fast-15'] == Recipe(DPMSolverPP2M(), (), 'log_snr:15')
        for recipe in recipes.values():
            make_grid(RELEASED[name].diffusion, recipe.respacing, recipe.timesteps)


def test_models_of_one_architecture_have_one_set_of_recipes_and_marks_of_their_own():
    lsun = RELEASED['lsun_cat']
    paper = published_recipes(lsun.network, lsun.diffusion, guided=False)[0]
    assert 'lsun_bedroom: FID 1.90' in paper.mark and 'lsun_cat: FID 5.57' in paper.mark
    guided = RELEASED['256x256_diffusion_uncond']
    assert published_recipes(guided.network, LINEAR, guided=True)[0].mark.startswith('FID 12.00')


def test_a_section_of_a_config_has_what_no_other_section_decides():
    unet = network_section('128x128_diffusion')
    assert unet['class_conditional'] and unet['model_channels'] == 256 and unet['num_head_channels'] is None
    classifier = network_section('64x64_classifier')
    assert classifier['num_res_blocks'] == 4 and classifier['pool'] == 'attention'
    assert not {'image_size', 'num_classes', 'out_channels', 'low_res'} & (unet.keys() | classifier.keys())
    assert not network_section('lsun_cat')['class_conditional']


def test_a_classifier_is_recognized():
    found = resembling(recorded_shapes('256x256_classifier'))
    assert found.equal == found.total and found.names == ('256x256_classifier',)
    assert '256x256_classifier' in str(found)


def test_the_nearest_is_found():
    shapes = recorded_shapes('64x64_classifier')
    shapes['out.2.c_proj.weight'] = (10, 512, 1)
    shapes['fc.weight'] = shapes.pop('time_embed.0.bias')
    found = resembling(shapes)
    assert (found.names, found.equal, found.total) == (('64x64_classifier',), 305, 308)


def test_what_shares_nothing_resembles_nothing():
    found = resembling({'layer1.0.conv1.weight': (64, 64, 3, 3), 'fc.bias': (1000,)})
    assert (found.names, found.equal) == ((), 0)


@pytest.mark.slow
@pytest.mark.parametrize('name', DIFFUSION_MODELS)
def test_diffusion_models_are_recognized(name):
    same = ('256x256_diffusion_uncond', 'lsun_bedroom', 'lsun_cat', 'lsun_horse', 'lsun_horse_nodropout')
    found = resembling(recorded_shapes(name))
    assert found.equal == found.total
    assert found.names == (same if name in same else (name,))


@pytest.mark.slow
def test_a_model_with_labels_is_near_to_that_without():
    shapes = recorded_shapes('256x256_diffusion')
    del shapes['label_emb.weight']
    shapes['out.2.bias'] = (3,)
    found = resembling(shapes)
    assert found.names[0] == '256x256_diffusion_uncond'
    assert (found.equal, found.total) == (565, 566)
