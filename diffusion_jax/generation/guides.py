"""What the guidances of a recipe need of a model: networks, blocks of the network, weights of classes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from diffusion_jax.checks import one_of
from diffusion_jax.diffusion.guidance import Guidance, MixtureGuidance, Modifier, innermost
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import check_array, whole_number
from diffusion_jax.generation.labels import class_numbers
from diffusion_jax.models import ClassifierConfig, UNetConfig, attention_blocks

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator


def check_needs(model: Generator, recipe: Recipe) -> None:
    """UserError unless the model has what the guidances need."""
    if recipe.needs_classifier and model.classifier is None:
        raise UserError('recipe', 'needs a classifier, and none is loaded', 'load one, or leave out scale')
    if 'weak' in recipe.needs and model.weak is None:
        problem = 'auto needs a second diffusion model, and none is loaded'
        raise UserError('guidance', problem, "give one as weak: load('model', weak='weaker')")
    check_network(model.unet, recipe)


def check_network(unet: UNetConfig, recipe: Recipe) -> None:
    """UserError unless the diffusion model's network is one that the guidances can use."""
    if 'null' in recipe.needs and (unet.num_classes is None or not unet.label_dropout):
        raise UserError(
            'guidance',
            'classifier_free needs a class-conditional diffusion model that was trained with label dropout',
            'set config.unet.label_dropout, such as 0.1, and train it; or use icg, which needs no dropout',
        )
    if 'conditional' in recipe.needs and unet.num_classes is None:
        problem = 'icg needs a class-conditional diffusion model, and this one has no classes'
        raise UserError('guidance', problem, 'leave it out, or load a conditional model')
    for name in (name for each in recipe.guidance for name in getattr(innermost(each), 'blocks', ())):
        one_of('guidance.blocks', name, attention_blocks(unet))


def with_class_weights(
    recipe: Recipe, num_images: int, classifier: ClassifierConfig | None, classes: tuple[str, ...] = ()
) -> Recipe:
    """The recipe with the weights of all `MixtureGuidance` as float32 [num_images, K]."""
    num_classes = classifier.num_classes if classifier else None

    def weighted(guidance: Guidance) -> Guidance:
        if isinstance(guidance, Modifier):
            return dataclasses.replace(guidance, guidance=weighted(guidance.guidance))
        if isinstance(guidance, MixtureGuidance):
            weights = _weights(guidance.weights, num_images, num_classes, classes)
            return dataclasses.replace(guidance, weights=weights)
        return guidance

    return dataclasses.replace(recipe, guidance=tuple(map(weighted, recipe.guidance)))


def _weights(weights: Any, num_images: int, num_classes: int | None, classes: tuple[str, ...]) -> Any:
    """float32 [num_images, K], from a dict or its items, [K] or [num_images, K]; traced: as they are."""
    if isinstance(weights, jax.core.Tracer):
        return weights
    where = 'guidance.weights'
    if isinstance(weights, tuple) and weights and isinstance(weights[0], tuple):
        weights = dict(weights)
    if isinstance(weights, dict):
        names = {name: class_numbers(name, classes, where) for name in weights if isinstance(name, str)}
        given = {whole_number(where, names.get(label, label)): weight for label, weight in weights.items()}
        known = num_classes or max(given, default=0) + 1
        weights = np.zeros(known, np.float32)
        for label, weight in given.items():
            weights[whole_number(where, label, 0, known)] = check_array(where, weight, (), np.float32)
    number = num_classes or 'K'
    shape = (number,) if np.ndim(weights) == 1 else (num_images, number)
    array = check_array(where, weights, shape, np.float32)
    if (array < 0).any() or not (array > 0).any(axis=-1).all():
        raise UserError(where, 'none is above 0, or one is below', 'must be at least 0, and one above')
    return np.broadcast_to(array, (num_images, array.shape[-1]))
