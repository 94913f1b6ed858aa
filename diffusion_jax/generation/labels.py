"""The classes that a request chooses, by number or name, and those that a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusion_jax.checks import INT32
from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import label_of
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import one_for_each
from diffusion_jax.models import NULL_CLASS

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator

Labels = int | str | Sequence[int | str] | np.ndarray


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
        raise UserError('y', 'got None', f'{allowed}, as in sample(4, {least})')
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
