"""What a recipe needs of a model, and of a request: networks, labels, weights of classes, blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from diffusion_jax.checks import INT32, one_of
from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import label_of
from diffusion_jax.diffusion.guidance import Guidance, MixtureGuidance, Modifier, innermost
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import check_array, one_for_each, whole_number
from diffusion_jax.models import NULL_CLASS, ClassifierConfig, UNetConfig, attention_blocks

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator

Labels = int | str | Sequence[int | str] | np.ndarray


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


def know_no_class(model: Generator, recipe: Recipe) -> bool:
    """Whether the diffusion models that a recipe evaluates have learned images of no class."""
    unets = [model.unet, *([model.weak.unet] if model.weak and 'weak' in recipe.needs else [])]
    return all(unet.num_classes is None or unet.label_dropout for unet in unets)


def number_of_classes(model: Generator, recipe: Recipe) -> int | None:
    """The number of classes that a request chooses from; None if it chooses none."""
    if model.unet.num_classes is None and recipe.needs & {'log_prob', 'y'}:
        return model.classifier.num_classes if model.classifier else INT32  # of the caller's own classifier
    return model.unet.num_classes


def labels(model: Generator, num_images: int, y: Labels | None, recipe: Recipe) -> np.ndarray:
    """int32 [num_images], from one class for all images or one for each; zeros if nothing reads labels.

    −1, no class, is a label of networks that learned it, without a guidance that reads labels.
    """
    read = number_of_classes(model, recipe)
    num_classes = read or (model.classifier.num_classes if model.classifier else len(model.classes))
    if read is None and (y is None or not num_classes):
        return np.zeros(num_images, np.int32)
    least, allowed = 0, f'must be a class from 0 to {num_classes - 1} for every image'
    if know_no_class(model, recipe) and recipe.needs.isdisjoint({'log_prob', 'y'}):
        least, allowed = NULL_CLASS, f'{allowed}, or −1, no class'
    elif know_no_class(model, recipe):
        allowed += "; −1, no class, needs guidance=''"
    if y is None:
        raise UserError('y', 'got None', allowed)
    array = one_for_each('y', class_numbers(y, model.classes), num_images, np.int32)
    wrong = array[(array < least) | (array >= num_classes)]
    if len(wrong):
        raise UserError('y', f'got {wrong[0]}', allowed)
    return np.zeros_like(array) if read is None else array


def class_numbers(y: Any, classes: tuple[str, ...], where: str = 'y') -> Any:
    """Classes by number, from names or numbers; `where` is the argument in messages."""
    if isinstance(y, (list, tuple)):
        return [class_numbers(each, classes, where) for each in y]
    if not isinstance(y, str):
        return y
    if not classes:
        remedy = 'give numbers: the names of the classes of this model are unknown'
        raise UserError(where, f'got {y!r}', remedy)
    return label_of(y, imagenet.synonyms(classes))


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
        numbers = [
            class_numbers(label, classes, where) if isinstance(label, str) else label for label in weights
        ]
        given = {whole_number(where, n): weight for n, weight in zip(numbers, weights.values(), strict=True)}
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
