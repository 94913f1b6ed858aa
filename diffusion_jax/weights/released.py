"""The authors' fifteen released models: the network of each, its diffusion process and how it was sampled.

Names are those of the files without `.pt`, as in https://github.com/openai/guided-diffusion. What the table
does not name has ADM's defaults: see `TrunkConfig` and `DiffusionConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffusion_jax.data import imagenet
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.models.config import DERIVED
from diffusion_jax.weights.reference import reference_shapes

# Recipes by name, the first being the default.
Recipes = tuple[tuple[str, Recipe], ...]


class Released(NamedTuple):
    """A released model; of a diffusion model also how it is sampled, and the name of what guides it.

    `diffusion` is the process that it was trained with; of it a classifier knows the levels only.
    """

    network: UNetConfig | ClassifierConfig
    diffusion: DiffusionConfig
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


def _lsun(dropout: float) -> Released:
    return Released(_unet(256, num_classes=None, dropout=dropout), LINEAR, _recipes(respacing=''))


def _recipes(respacing: str = '250', scale: float = 0.0, ddim_scale: float | None = None) -> Recipes:
    """The paper's: ancestral sampling with learned variances (table 14), and DDIM in 25 steps.

    Scales are of classifier guidance, 0 is none; that of DDIM is by default the same.
    """

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
        _recipes(scale=1.0),  # the published FID, 2.07, is that without guidance
        '64x64_classifier',
    ),
    '128x128_diffusion': Released(
        _unet(128, num_heads=4, num_head_channels=None),
        LINEAR,
        _recipes(scale=0.5, ddim_scale=1.25),
        '128x128_classifier',
    ),
    '256x256_diffusion': Released(
        _unet(256), LINEAR, _recipes(scale=1.0, ddim_scale=2.5), '256x256_classifier'
    ),
    '256x256_diffusion_uncond': Released(
        _unet(256, num_classes=None), LINEAR, _recipes(scale=10.0), '256x256_classifier'
    ),
    '512x512_diffusion': Released(
        _unet(512), LINEAR, _recipes(scale=4.0, ddim_scale=9.0), '512x512_classifier'
    ),
    '64_256_upsampler': Released(_upsampler(256, num_heads=4, num_head_channels=None), LINEAR, _recipes()),
    # The paper says attention at 8 too; with six levels of 512 the smallest side is 16.
    '128_512_upsampler': Released(_upsampler(512, attention_resolutions=(32, 16)), LINEAR, _recipes()),
    'lsun_bedroom': _lsun(dropout=0.1),
    'lsun_cat': _lsun(dropout=0.1),
    'lsun_horse': _lsun(dropout=0.1),
    'lsun_horse_nodropout': _lsun(dropout=0.0),
    '64x64_classifier': Released(_classifier(64, num_res_blocks=4), COSINE),
    '128x128_classifier': Released(_classifier(128), LINEAR),
    '256x256_classifier': Released(_classifier(256), LINEAR),
    '512x512_classifier': Released(_classifier(512), LINEAR),
}


def section(name: str) -> dict[str, Any]:
    """A released network as the section `unet` or `classifier` of an experiment's config."""
    network = RELEASED[name].network
    settings = {key: value for key, value in dataclasses.asdict(network).items() if key not in DERIVED}
    if isinstance(network, UNetConfig):
        settings['class_conditional'] = network.num_classes is not None
    return settings


def published_recipes(network: UNetConfig, diffusion: DiffusionConfig, *, guided: bool) -> Recipes:
    """The paper's recipes for a model of a released architecture and process; () for any other.

    guided: there is a classifier, which tells ImageNet's unconditional model from those of LSUN.
    """
    settings = {name: getattr(network, name) for name in ('dtype', 'remat', 'dropout')}
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
    """How much a state_dict resembles the released one that is nearest.

    Attributes:
        names: of the nearest, several where they share an architecture; () where no array is the same.
        equal: arrays that have the same key and shape in both.
        total: arrays of either.
    """

    names: tuple[str, ...]
    equal: int
    total: int

    @property
    def exact(self) -> bool:
        return self.equal == self.total

    def __str__(self) -> str:
        if not self.names:
            return 'it resembles no released model'
        if self.exact:
            return f'it is {" = ".join(self.names)}'
        return f'it resembles {" = ".join(self.names)}: {self.equal} of {self.total} arrays are the same'


def resembling(shapes: Mapping[str, tuple[int, ...]]) -> Resemblance:
    """The released models whose keys and shapes are nearest to those of a state_dict.

    Allocates no arrays. Takes a while: the shapes of each large network are traced for two seconds.
    """
    architectures: dict[UNetConfig | ClassifierConfig, tuple[str, ...]] = {}
    for name in RELEASED:
        network = _without_dropout(name)
        architectures[network] = (*architectures.get(network, ()), name)
    is_unet = any(key.startswith('output_blocks.') for key in shapes)
    nearest = Resemblance((), 0, len(shapes))
    for network, names in architectures.items():
        if isinstance(network, UNetConfig) == is_unet and not nearest.exact:
            theirs = reference_shapes(network)
            equal, total = len(shapes.items() & theirs.items()), len(shapes.keys() | theirs.keys())
            if equal / total > nearest.equal / nearest.total:
                nearest = Resemblance(names, equal, total)
    return nearest


def released_classes(name: str) -> tuple[str, ...]:
    """The names of a released model's classes, which are ImageNet's; () for LSUN's and for other names."""
    return imagenet.class_names() if name in RELEASED and not name.startswith('lsun') else ()


def released_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of a released state_dict, in its order."""
    return reference_shapes(_without_dropout(name))


def _without_dropout(name: str) -> UNetConfig | ClassifierConfig:
    """A released network; it has the parameters of the others that differ in nothing but dropout."""
    return dataclasses.replace(RELEASED[name].network, dropout=0.0)
