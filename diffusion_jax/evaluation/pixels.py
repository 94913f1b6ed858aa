"""Metrics in the space of pixels, for images too small for Inception and comparable with nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.comparison import compare
from diffusion_jax.evaluation.extractors import Extractor, pixel_extractor, pixels
from diffusion_jax.evaluation.feature_sets import of_features
from diffusion_jax.evaluation.inception.sources import REMEDY

MAX_DIMENSIONS = 3 * 32 * 32  # covariances of larger images take minutes and gigabytes

Shape = tuple[int, ...]  # height, width, channels


def evaluate_pixels(samples: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Every metric that pixels allow, of uint8 images [N, H, W, C]."""
    return compare(of_features(pixels(samples)), of_features(pixels(reference)))


def image_shape(images: ImageSet) -> Shape:
    """That of the first image that can be used; reads its part. UserError where there is none."""
    left_out: list[str] = []
    for part in images.parts:
        rows = images.read(part)
        if len(rows.images):
            return rows.images.shape[1:]
        left_out += rows.unreadable
    raise UserError(f'{images.name}: has no image that can be used ({left_out[0]})')


def pixels_of(shapes: Mapping[str, Shape], inception: str, otherwise: str) -> Extractor:
    """Compares the pixels of sets of images; grey ones as RGB where others are RGB.

    Args:
        shapes: of the images of each set, by its name.
        inception: what the setting of Inception's weights is called.
        otherwise: another way out, for messages.

    Raises:
        UserError: the images are too large for that, or of several sizes.
    """
    for name, shape in shapes.items():
        if math.prod(shape) > MAX_DIMENSIONS:
            raise UserError(
                f'{name}: has images of {_text(shape)}; without {inception} pixels are compared, of images '
                f'up to 32×32×3. Set {inception} (`diffusion-jax convert-inception` makes its file: '
                f'{REMEDY}); or compare features of a network of your own (`diffusion-jax evaluate '
                f'SAMPLES.npy REFERENCE.npy`, each float [N, D]); or {otherwise}'
            )
    (one, first), *others = shapes.items()
    for other, shape in others:
        if shape[:2] != first[:2]:
            raise UserError(
                f'{one}: has images of {_text(first)}, {other} of {_text(shape)}; pixels need images of one '
                f'size: set {inception}, which compares any sizes, or {otherwise}'
            )
    return pixel_extractor(rgb=len(set(shapes.values())) > 1)


def _text(shape: Shape) -> str:
    return '×'.join(map(str, shape))
