"""The crops of the authors' release (guided_diffusion/image_datasets.py), on the host: uint8 [H, W, C]."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.images import Size

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

MIN_CROP_FRACTION = 0.8  # a random crop shows at least this share of the shorter side


def make_transform(
    config: DataConfig, *, crop_randomly: bool = False, flip: bool = False
) -> Transform | None:
    """Every image to `config.image_size`: cropped at the centre or at random, and mirrored half of the time.

    None where images have their size already and nothing is random.
    """
    if config.name == 'digits' and not crop_randomly and not flip:
        return None

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if crop_randomly:
            image = random_crop(image, config.image_size, rng.integers)
        else:
            image = center_crop(image, config.image_size)
        return image[:, ::-1] if flip and rng.random() < 0.5 else image

    return transform


def center_crop(image: np.ndarray, size: Size) -> np.ndarray:
    """The centre of the image, resized to the smallest image that covers `size`."""
    image = cover(image, size)
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def random_crop(image: np.ndarray, size: Size, integers: Callable[[int, int], int]) -> np.ndarray:
    """A random part of the image that shows 80 to 100 % of what `size` could cover.

    integers: samples from [low, high), such as `numpy.random.Generator.integers` or `random.randrange`.
    """
    side = min(size)
    covered = integers(side, math.ceil(side / MIN_CROP_FRACTION) + 1)
    image = cover(image, (round(size[0] * covered / side), round(size[1] * covered / side)))
    top = integers(0, image.shape[0] - size[0] + 1)
    left = integers(0, image.shape[1] - size[1] + 1)
    return image[top : top + size[0], left : left + size[1]]


def cover(image: np.ndarray, size: Size) -> np.ndarray:
    """The smallest image of the same proportions that covers `size`.

    Halved by box filter while it stays at least that large, then resized by bicubic filter: Pillow's bicubic
    alone is slow for large photographs.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    while picture.height >= 2 * height and picture.width >= 2 * width:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(height / picture.height, width / picture.width)
    resized = (round(picture.width * scale), round(picture.height * scale))
    pixels = np.asarray(picture.resize(resized, Image.Resampling.BICUBIC))
    return pixels.reshape(*pixels.shape[:2], image.shape[-1])
