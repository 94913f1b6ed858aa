"""The crops of the authors' release (guided_diffusion/image_datasets.py), on the host: uint8 [H, W, C]."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.images import Size

Picture = np.ndarray | Image.Image  # uint8 [H, W, C], or Pillow's, of mode L or RGB
Transform = Callable[[Picture, np.random.Generator], np.ndarray]

MIN_CROP_FRACTION = 0.8  # a random crop shows at least this share of the shorter side


def make_transform(config: DataConfig, *, crop_randomly: bool = False, flip: bool = False) -> Transform:
    """To `config.image_size`: cropped at the centre or at random, and mirrored half of the time."""

    def transform(image: Picture, rng: np.random.Generator) -> np.ndarray:
        if crop_randomly:
            pixels = random_crop(image, config.image_size, rng.integers)
        else:
            pixels = center_crop(image, config.image_size)
        return pixels[:, ::-1] if flip and rng.random() < 0.5 else pixels

    return transform


def cropped_to(size: Size) -> Transform:
    """The transform to a crop at the centre."""
    return lambda image, rng: center_crop(image, size)


def uncropped(image: Picture, rng: np.random.Generator) -> np.ndarray:
    """The transform of images that have one size already."""
    return as_array(image)


def as_array(image: Picture) -> np.ndarray:
    """uint8 [H, W, C]."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def as_picture(image: Picture) -> Image.Image:
    """Pillow's image."""
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def center_crop(image: Picture, size: Size) -> np.ndarray:
    """The centre of the image, resized to the smallest image that covers `size`."""
    if isinstance(image, np.ndarray) and image.shape[:2] == size:
        return image
    picture, (height, width) = _halved(image, size)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return _resized(picture, (height, width), left, left + size[1])[top : top + size[0]]


def random_crop(image: Picture, size: Size, integers: Callable[[int, int], int]) -> np.ndarray:
    """A random part of the image that shows 80 to 100 % of what `size` could cover.

    integers: samples from [low, high), such as `numpy.random.Generator.integers` or `random.randrange`.
    """
    side = min(size)
    covered = integers(side, math.ceil(side / MIN_CROP_FRACTION) + 1)
    larger = (round(size[0] * covered / side), round(size[1] * covered / side))
    picture, (height, width) = _halved(image, larger)
    top = integers(0, height - size[0] + 1)
    left = integers(0, width - size[1] + 1)
    return _resized(picture, (height, width), left, left + size[1])[top : top + size[0]]


def cover(image: Picture, size: Size) -> np.ndarray:
    """The smallest image of the same proportions that covers `size`.

    Halved by box filter while it stays at least that large, then resized by bicubic filter: Pillow's bicubic
    alone is slow for large photographs.
    """
    picture, (height, width) = _halved(image, size)
    return _resized(picture, (height, width), 0, width)


# Pillow resizes along each axis in turn and rounds in between. Here both are calls of their own, for two
# reasons: from version 13 on Pillow takes images of twice the width the other way round, which gives other
# pixels, and columns that are cropped need not be resized along the other axis.


def _halved(image: Picture, size: Size) -> tuple[Image.Image, Size]:
    """The image, halved while it covers `size`, and the height and width at which it just covers it."""
    picture = as_picture(image)
    while picture.height >= 2 * size[0] and picture.width >= 2 * size[1]:
        width, height = picture.size
        picture = _half(picture, (2, 1), (width // 2, height))
        picture = _half(picture, (1, 2), (width // 2, height // 2))
    scale = max(size[0] / picture.height, size[1] / picture.width)
    return picture, (round(picture.height * scale), round(picture.width * scale))


def _half(picture: Image.Image, factor: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Halved along one axis by box filter: of an even side `reduce` makes the same pixels faster."""
    even = picture.width % factor[0] == picture.height % factor[1] == 0
    return picture.reduce(factor) if even else picture.resize(size, Image.Resampling.BOX)


def _resized(picture: Image.Image, size: Size, left: int, right: int) -> np.ndarray:
    """The columns left … right − 1 of the image, resized by bicubic filter to this height and width."""
    across = picture.resize((size[1], picture.height), Image.Resampling.BICUBIC)
    part = across.crop((left, 0, right, picture.height))
    return as_array(part.resize((right - left, size[0]), Image.Resampling.BICUBIC))
