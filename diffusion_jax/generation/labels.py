"""Labels from classes given by number or by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import label_of
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import one_for_each

Labels = int | str | Sequence[int | str] | np.ndarray


def read_labels(
    y: Labels | None, num_images: int, num_classes: int | None, classes: Sequence[str]
) -> np.ndarray:
    """int32 [num_images], from one class for all images or one for each; zeros without classes.

    Raises:
        UserError: a class is missing or does not exist.
    """
    if num_classes is None:
        return np.zeros(num_images, np.int32)
    labels = one_for_each('y', -1 if y is None else _numbers(y, classes), num_images, np.int32)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f'y is {y}; give a class from 0 to {num_classes - 1} for every image')
    return labels


def _numbers(y: Labels, classes: Sequence[str]) -> Labels:
    """The classes with labels in place of names."""
    if isinstance(y, (list, tuple)):
        return [_numbers(each, classes) for each in y]
    if not isinstance(y, str):
        return y
    if not classes:
        raise UserError(f'y is {y!r}; the names of the classes of this model are not known, give numbers')
    return label_of(y, imagenet.synonyms(classes))
