"""The authors' fifteen released models: the network of each, its diffusion process and its recipes.

Names are those of the files without `.pt`, as in https://github.com/openai/guided-diffusion. Settings that
the table does not name have ADM's defaults: see `TrunkConfig` and `DiffusionConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffusion_jax.data import imagenet
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM, EDM_IMAGENET64
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.weights.reference import reference_shapes

# Recipes by name, the first being the default.
Recipes = tuple[tuple[str, Recipe], ...]


class Released(NamedTuple):
    """A released model.

    Attributes:
        diffusion: the process that it was trained with; only its levels concern a classifier.
        config: the name of the config of its experiment.
        recipes: of a diffusion model.
        classifier: the name of the model that guides it.
    """

    network: UNetConfig | ClassifierConfig
    diffusion: DiffusionConfig
    config: str
    recipes: Recipes = ()
    classifier: str = ''


# The channels of each level by image size.
LEVELS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
LINEAR, COSINE = DiffusionConfig(schedule='linear'), DiffusionConfig(schedule='cosine')


def _unet(size: int, **changes: Any) -> UNetConfig:
    shape = {'image_size': (size, size), 'channel_mult': LEVELS[size]}
    return UNetConfig(**shape | {'model_channels': 256, 'num_classes': 1000} | changes)


def _upsampler(size: int, **changes: Any) -> UNetConfig:
    return _unet(size, model_channels=192, low_res=True, channel_mult=LEVELS[256], **changes)


def _classifier(size: int, **changes: Any) -> ClassifierConfig:
    return ClassifierConfig(image_size=(size, size), channel_mult=LEVELS[size], **changes)


def _lsun(config: str, dropout: float = 0.1) -> Released:
    return Released(_unet(256, num_classes=None, dropout=dropout), LINEAR, config, _recipes(respacing=''))


def _recipes(respacing: str = '250', scale: float = 0.0, ddim_scale: float | None = None) -> Recipes:
    """Ancestral sampling (table 14), and DDIM in 25 steps; scales are of classifier guidance, 0 for none."""

    def guidance(scale: float) -> tuple[ClassifierGuidance, ...]:
        return (ClassifierGuidance(scale),) if scale else ()

    ddim_scale = scale if ddim_scale is None else ddim_scale
    return (
        ('paper', Recipe(DDPM(), guidance(scale), respacing)),
        ('paper-ddim', Recipe(DDIM(), guidance(ddim_scale), 'ddim25')),
    )


RELEASED: dict[str, Released] = {
    # ImageNet. No scale for DDIM is published for the first and the fourth: theirs is that for DDPM.
    '64x64_diffusion': Released(
        _unet(64, model_channels=192, num_res_blocks=3, qkv_order='new', dropout=0.1),
        COSINE,
        'imagenet64',
        # The published FID, 2.07, is that without guidance. EDM improves it to 1.55 with a sampler like
        # 'edm', which has the options that EDM recommends for its own model.
        (*_recipes(scale=1.0), ('edm', Recipe(EDM_IMAGENET64, (), 'karras:256', timesteps='nearest'))),
        '64x64_classifier',
    ),
    '128x128_diffusion': Released(
        _unet(128, num_heads=4, num_head_channels=None),
        LINEAR,
        'imagenet128',
        _recipes(scale=0.5, ddim_scale=1.25),
        '128x128_classifier',
    ),
    '256x256_diffusion': Released(
        _unet(256), LINEAR, 'imagenet256', _recipes(scale=1.0, ddim_scale=2.5), '256x256_classifier'
    ),
    '256x256_diffusion_uncond': Released(
        _unet(256, num_classes=None), LINEAR, 'imagenet256_uncond', _recipes(scale=10.0), '256x256_classifier'
    ),
    '512x512_diffusion': Released(
        _unet(512), LINEAR, 'imagenet512', _recipes(scale=4.0, ddim_scale=9.0), '512x512_classifier'
    ),
    '64_256_upsampler': Released(
        _upsampler(256, num_heads=4, num_head_channels=None), LINEAR, 'upsample_64_256', _recipes()
    ),
    # The paper says attention at 8 too; with six levels of 512 the smallest side is 16.
    '128_512_upsampler': Released(
        _upsampler(512, attention_resolutions=(32, 16)), LINEAR, 'upsample_128_512', _recipes()
    ),
    'lsun_bedroom': _lsun('lsun_bedroom'),
    'lsun_cat': _lsun('lsun_cat'),
    'lsun_horse': _lsun('lsun_horse'),
    'lsun_horse_nodropout': _lsun('lsun_horse', dropout=0.0),
    '64x64_classifier': Released(_classifier(64, num_res_blocks=4), COSINE, 'imagenet64'),
    '128x128_classifier': Released(_classifier(128), LINEAR, 'imagenet128'),
    '256x256_classifier': Released(_classifier(256), LINEAR, 'imagenet256'),
    '512x512_classifier': Released(_classifier(512), LINEAR, 'imagenet512'),
}


def published_recipes(network: UNetConfig, diffusion: DiffusionConfig, *, guided: bool) -> Recipes:
    """The paper's recipes for a model of a released architecture and process; () for any other.

    guided: with a classifier, which tells ImageNet's unconditional model from those of LSUN.
    """
    settings = {name: getattr(network, name) for name in ('dtype', 'remat', 'dropout', 'label_dropout')}
    found = [
        released
        for released in RELEASED.values()
        if isinstance(released.network, UNetConfig)
        and dataclasses.replace(released.network, **settings) == network
        and released.diffusion == diffusion
    ]
    same = [released for released in found if bool(released.classifier) == guided]
    return (same or found)[0].recipes if found else ()


class Resemblance(NamedTuple):
    """The released models whose state_dict is the most similar to another.

    Attributes:
        names: several if they share an architecture; () if no array is the same.
        equal: the number of arrays that have the same key and shape in both.
        total: the number of arrays of either.
    """

    names: tuple[str, ...]
    equal: int
    total: int

    def __str__(self) -> str:
        similar = ' or '.join(self.names) or 'no released model'
        return f'{self.equal} of {self.total} arrays are those of {similar}'


def resembling(shapes: Mapping[str, tuple[int, ...]]) -> Resemblance:
    """The released models whose keys and shapes are the most similar to those of a state_dict.

    Allocates no arrays, but takes a while: the shapes of a large network are traced for two seconds.
    """
    architectures: dict[UNetConfig | ClassifierConfig, tuple[str, ...]] = {}
    for name, model in RELEASED.items():
        if isinstance(model.network, UNetConfig) == any(key.startswith('output_blocks.') for key in shapes):
            network = dataclasses.replace(model.network, dropout=0.0)
            architectures[network] = (*architectures.get(network, ()), name)
    nearest = Resemblance((), 0, len(shapes))
    for network, names in architectures.items():
        theirs = reference_shapes(network)
        equal, total = len(shapes.items() & theirs.items()), len(shapes.keys() | theirs.keys())
        if equal / total > nearest.equal / nearest.total:
            nearest = Resemblance(names, equal, total)
        if equal == total:
            break
    return nearest


def released_classes(name: str) -> tuple[str, ...]:
    """The names of a released model's classes, which are ImageNet's; () for LSUN's and for other names."""
    return imagenet.class_names() if name in RELEASED and not name.startswith('lsun') else ()
