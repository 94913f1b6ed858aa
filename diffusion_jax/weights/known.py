"""All published models by name, and which of them a network or a file is."""

import dataclasses
from typing import Any, NamedTuple

from diffusion_jax.data import imagenet
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.weights.community import COMMUNITY
from diffusion_jax.weights.published import Published, Released
from diffusion_jax.weights.reference import Shapes, fitted, reference_shapes
from diffusion_jax.weights.released import RELEASED

MODELS: dict[str, Released] = RELEASED | COMMUNITY
COMPARED = 6  # architectures that are compared with a file


def published_recipes(
    network: UNetConfig, diffusion: DiffusionConfig, *, guided: bool
) -> tuple[Published, ...]:
    """The recipes for a model of a published architecture and process; () for any other.

    Models that share both have the same recipes; their marks are then given with the names of the models.

    guided: with a classifier, which distinguishes ImageNet's unconditional model from those of LSUN.
    """
    settings = {name: getattr(network, name) for name in ('dtype', 'remat', 'dropout', 'label_dropout')}
    found = {
        name: model
        for name, model in MODELS.items()
        if isinstance(model.network, UNetConfig)
        and dataclasses.replace(model.network, **settings) == network
        and model.diffusion == diffusion
    }
    same = {name: model for name, model in found.items() if bool(model.classifier) == guided} or found
    recipes = [recipe for model in same.values() for recipe in model.recipes]
    marks = {name: dict(model.marks(guided)) for name, model in same.items()}
    return tuple(Published(name, recipe, _joined(name, marks)) for name, recipe in dict(recipes).items())


class Resemblance(NamedTuple):
    """The published models whose state_dict is the most similar to another.

    Attributes:
        names: several if they share an architecture; () if no array is the same.
        equal: the number of arrays that have the same key and shape in both.
        total: the number of arrays of either.
    """

    names: tuple[str, ...]
    equal: int
    total: int

    def __str__(self) -> str:
        similar = ' or '.join(self.names) or 'no published model'
        return f'{self.equal} of {self.total} arrays are those of {similar}'


def resembling(shapes: Shapes) -> Resemblance:
    """The published models whose keys and shapes are the most similar to those of a state_dict.

    Allocates no arrays, but takes a while: the shapes of a large network are traced for two seconds. So only
    a few are compared, those with the most similar main settings.
    """
    architectures: dict[UNetConfig | ClassifierConfig, tuple[str, ...]] = {}
    for name, model in MODELS.items():
        if isinstance(model.network, UNetConfig) == any(key.startswith('output_blocks.') for key in shapes):
            network = dataclasses.replace(model.network, dropout=0.0)
            architectures[network] = (*architectures.get(network, ()), name)
    nearest = Resemblance((), 0, len(shapes))
    by_hints = sorted(architectures, key=lambda network: -_hints(network, shapes))
    for network in by_hints[:COMPARED]:
        theirs = reference_shapes(network)
        equal = len(fitted(shapes, theirs).items() & theirs.items())
        total = len(shapes.keys() | theirs.keys())
        if equal / total > nearest.equal / nearest.total:
            nearest = Resemblance(architectures[network], equal, total)
        if equal == total:
            break
    return nearest


def released_classes(name: str) -> tuple[str, ...]:
    """The names of a published model's classes, which are ImageNet's; () if it has none."""
    model = MODELS.get(name)
    labelled = model is not None and (model.classifier or model.network.num_classes)
    return imagenet.class_names() if labelled else ()


def _joined(recipe: str, marks: dict[str, dict[str, str]]) -> str:
    """The mark that some models share, or that of each."""
    different = {model: each[recipe] for model, each in marks.items()}
    if len(set(different.values())) == 1:
        return next(iter(different.values()))
    return '; '.join(f'{model}: {mark}' for model, mark in different.items())


def _hints(network: Any, shapes: Shapes) -> int:
    """How many of three arrays that distinguish networks, and their number of blocks, are as expected.

    It decides what is compared with a file, and first.
    """
    channels, classes = network.model_channels, network.num_classes
    blocks = len(network.channel_mult) * (network.num_res_blocks + 1)
    expected = {
        'time_embed.0.weight': (4 * channels, channels),
        'label_emb.weight': (classes, 4 * channels) if classes and isinstance(network, UNetConfig) else None,
        'out.2.bias': (getattr(network, 'out_channels', None),),
    }
    same = sum(shapes.get(key) == shape for key, shape in expected.items())
    last, beyond = (f'input_blocks.{i}.0.in_layers.0.weight' in shapes for i in (blocks - 1, blocks))
    return same + last - beyond
