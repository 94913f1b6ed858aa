"""The crops of the authors' release (guided_diffusion/image_datasets.py), on the host: uint8 [H, W, C]."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.images import Size

Picture = np.ndarray | Image.Image  # uint8 [H, W, C], or Pillow's, of mode L or RGB
Transform = Callable[[Picture, np.random.Generator], np.ndarray]

MIN_CROP_FRACTION = 0.8  # a random crop shows at least this share of the shorter side


def make_transform(
    config: DataConfig, *, crop_randomly: bool = False, flip: bool = False
) -> Transform | None:
    """Every image to `config.image_size`: cropped at the centre or at random, and mirrored half of the time.

    None where images have their size already and nothing is random.
    """
    if config.name == 'digits' and not crop_randomly and not flip:
        return None

    def transform(image: Picture, rng: np.random.Generator) -> np.ndarray:
        if crop_randomly:
            pixels = random_crop(image, config.image_size, rng.integers)
        else:
            pixels = center_crop(image, config.image_size)
        return pixels[:, ::-1] if flip and rng.random() < 0.5 else pixels

    return transform


def as_array(image: Picture) -> np.ndarray:
    """uint8 [H, W, C]."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def center_crop(image: Picture, size: Size) -> np.ndarray:
    """The centre of the image, resized to the smallest image that covers `size`."""
    pixels = cover(image, size)
    top, left = (pixels.shape[0] - size[0]) // 2, (pixels.shape[1] - size[1]) // 2
    return pixels[top : top + size[0], left : left + size[1]]


def random_crop(image: Picture, size: Size, integers: Callable[[int, int], int]) -> np.ndarray:
    """A random part of the image that shows 80 to 100 % of what `size` could cover.

    integers: samples from [low, high), such as `numpy.random.Generator.integers` or `random.randrange`.
    """
    side = min(size)
    covered = integers(side, math.ceil(side / MIN_CROP_FRACTION) + 1)
    pixels = cover(image, (round(size[0] * covered / side), round(size[1] * covered / side)))
    top = integers(0, pixels.shape[0] - size[0] + 1)
    left = integers(0, pixels.shape[1] - size[1] + 1)
    return pixels[top : top + size[0], left : left + size[1]]


def cover(image: Picture, size: Size) -> np.ndarray:
    """The smallest image of the same proportions that covers `size`.

    Halved by box filter while it stays at least that large, then resized by bicubic filter: Pillow's bicubic
    alone is slow for large photographs.
    """
    height, width = size
    if isinstance(image, Image.Image):
        picture = image
    elif image.shape[:2] == size:
        return image
    else:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    while picture.height >= 2 * height and picture.width >= 2 * width:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(height / picture.height, width / picture.width)
    resized = (round(picture.width * scale), round(picture.height * scale))
    return as_array(picture.resize(resized, Image.Resampling.BICUBIC))
