"""Models of others: networks, processes and sizes, as their public code and configs give them."""

import dataclasses
import math

import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.models import check_unet, describe_network, network_of
from diffusion_jax.weights.community import COMMUNITY
from diffusion_jax.weights.known import MODELS, released_classes, resembling
from diffusion_jax.weights.reference import reference_shapes
from diffusion_jax.weights.released import RELEASED

# The flags of their commands: size, channels, blocks, then what differs from the defaults of their code.
IMPROVED = {'attention_resolutions': '16,8', 'num_heads': 4, 'scale_shift': True, 'updown': False}
GUIDED = {'attention_resolutions': '32,16,8', 'head_channels': 64, 'scale_shift': True, 'updown': True}
ILVR = (256, 128, 1, GUIDED | {'attention_resolutions': '16'}, 'linear', 1000, False)
FLAGS = {
    'ffhq_10m': ILVR,
    'afhq_dog_4m': ILVR,
    'edm_imagenet64_ema': (64, 192, 3, GUIDED | {'classes': 1000}, 'edm', 1000, False),
    'edm_bedroom256_ema': (256, 256, 2, GUIDED | {'scale_shift': False}, 'edm', 1000, False),
    'edm_cat256_ema': (256, 256, 2, GUIDED | {'scale_shift': False}, 'edm', 1000, False),
    'cifar10_uncond_50M_500K': (32, 128, 3, IMPROVED, 'cosine', 4000, True),
    'cifar10_uncond_vlb_50M_500K': (32, 128, 3, IMPROVED, 'cosine', 4000, True),
    'imagenet64_uncond_100M_1500K': (64, 128, 3, IMPROVED, 'cosine', 4000, True),
    'imagenet64_uncond_vlb_100M_1500K': (64, 128, 3, IMPROVED, 'cosine', 4000, True),
    'imagenet64_cond_270M_250K': (64, 192, 3, IMPROVED | {'classes': 1000}, 'cosine', 4000, False),
    'upsample_cond_500K': (256, 192, 2, IMPROVED | {'classes': 1000, 'low_res': True}, 'linear', 4000, False),
} | dict.fromkeys(
    ('lsun_uncond_100M_1200K_bs128', 'lsun_uncond_100M_2400K_bs64'),
    (
        *(256, 128, 2),
        IMPROVED | {'num_heads': 1, 'scale_shift': False, 'attention_resolutions': '16'},
        *('linear', 1000, False),
    ),
)
MULTIPLES = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
# Parameters in millions, as published in the README of improved-diffusion and, for the network of ADM-64, in
# 2105.05233; or a quarter of the bytes of the file, which is 357 MiB.
MILLIONS = {
    'ffhq_10m': (357 * 2**20 / 4 / 1e6, 0.2),
    'imagenet64_cond_270M_250K': (270, 5),
    'upsample_cond_500K': (280, 5),
    'edm_imagenet64_ema': (296, 1),
}
FAST = ('ffhq_10m', 'cifar10_uncond_50M_500K', 'edm_imagenet64_ema')


@pytest.mark.parametrize('name', COMMUNITY)
def test_networks_and_processes_are_those_of_the_flags(name):
    size, channels, blocks, flags, schedule, timesteps, rescaled = FLAGS[name]
    network, process = COMMUNITY[name].network, COMMUNITY[name].diffusion
    check_unet(network)
    assert network_of(describe_network(network)) == dataclasses.replace(network, dropout=0.0)
    assert network.image_size == (size, size) and network.channel_mult == MULTIPLES[size]
    assert (network.model_channels, network.num_res_blocks) == (channels, blocks)
    assert ','.join(map(str, network.attention_resolutions)) == flags['attention_resolutions']
    assert network.num_head_channels == flags.get('head_channels')
    if 'num_heads' in flags:
        assert network.num_heads == flags['num_heads']
    assert (network.scale_shift_norm, network.resblock_updown) == (flags['scale_shift'], flags['updown'])
    assert network.num_classes == flags.get('classes') and network.low_res == flags.get('low_res', False)
    edm = schedule == 'edm'
    assert network.qkv_order == ('new' if edm else 'legacy')
    assert network.out_channels == (3 if edm else 6)
    assert (process.schedule, process.num_timesteps) == (schedule, timesteps)
    assert process.rescale_timesteps == rescaled
    assert process.prediction == ('edm' if edm else 'eps')
    assert process.variance == ('fixed_small' if edm else 'learned_range')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in COMMUNITY]
)
def test_sizes(name):
    shapes = reference_shapes(COMMUNITY[name].network)
    million = sum(math.prod(shape) for shape in shapes.values()) / 1e6
    if name in MILLIONS:
        assert million == pytest.approx(MILLIONS[name][0], abs=MILLIONS[name][1])
    # The networks of Improved DDPM have convolutions between levels, the others residual blocks.
    plain = any('.op.weight' in key for key in shapes)
    assert plain == (not COMMUNITY[name].network.resblock_updown)


def test_names_are_unique():
    assert not COMMUNITY.keys() & RELEASED.keys() and len(MODELS) == 28
    assert all(model.config == '' for model in COMMUNITY.values())


def test_recipes_have_grids():
    for model in COMMUNITY.values():
        assert len(model.recipes) >= 4 and not model.recipes[0][1].needs_classifier
        for _, recipe in model.recipes:
            make_grid(model.diffusion, recipe.respacing, recipe.timesteps)
    assert COMMUNITY['edm_cat256_ema'].recipes[0][0] == 'heun'
    assert dict(COMMUNITY['imagenet64_cond_270M_250K'].marks())['ddpm'].startswith('FID 2.92 (2105.05233')


def test_models_that_cannot_be_told_apart_may_be_exchanged():
    """Of one architecture: a file under another name gets the process of the first."""
    groups = {}
    for model in MODELS.values():
        network = dataclasses.replace(model.network, dropout=0.0)
        groups.setdefault(network, set()).add(dataclasses.replace(model.diffusion, loss='mse'))
    assert all(len(processes) == 1 for processes in groups.values())
    assert DiffusionConfig(loss='mse') in groups[COMMUNITY['ffhq_10m'].network]


@pytest.mark.slow
@pytest.mark.parametrize('name', COMMUNITY)
def test_models_are_recognized(name):
    """By names and shapes of arrays alone, also among all that are similar."""
    found = resembling(reference_shapes(COMMUNITY[name].network))
    same = [
        each
        for each, model in MODELS.items()
        if dataclasses.replace(model.network, dropout=0.0)
        == dataclasses.replace(COMMUNITY[name].network, dropout=0.0)
    ]
    assert found.equal == found.total and list(found.names) == same


def test_classes():
    assert len(released_classes('edm_imagenet64_ema')) == 1000
    assert released_classes('imagenet64_cond_270M_250K') == released_classes('64x64_diffusion')
    for name in ('ffhq_10m', 'imagenet64_uncond_100M_1500K', 'edm_cat256_ema', 'lsun_cat', 'no such'):
        assert released_classes(name) == ()
    assert released_classes('256x256_diffusion_uncond') == released_classes('64x64_classifier') != ()
