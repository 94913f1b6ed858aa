"""From a decoded image to the network's input, and back.

On the host, uint8 [H, W, C]: the crops of the authors' release (guided_diffusion/image_datasets.py). On the
device, [B, H, W, C]: scaling to [−1, 1], and the low-resolution input of an upsampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffusion_jax.data.config import DataConfig

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Size = tuple[int, int]  # height, width

MIN_CROP_FRACTION = 0.8  # a random crop shows at least this share of the shorter side


def make_transform(
    config: DataConfig, *, crop_randomly: bool = False, flip: bool = False
) -> Transform | None:
    """Every image to `config.image_size`: cropped at the centre or at random, and mirrored half of the time.

    None where images have their size already and nothing is drawn: whole batches are gathered at once then.
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
    """The centre of the image, after it was shrunk or enlarged until it just covers `size`."""
    image = cover(image, size)
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def random_crop(image: np.ndarray, size: Size, integers: Callable[[int, int], int]) -> np.ndarray:
    """A random part of the image that shows 80 to 100 % of what `size` could cover.

    integers: draws from [low, high), such as `numpy.random.Generator.integers` or `random.randrange`.
    """
    side = min(size)
    drawn = integers(side, math.ceil(side / MIN_CROP_FRACTION) + 1)
    image = cover(image, (round(size[0] * drawn / side), round(size[1] * drawn / side)))
    top = integers(0, image.shape[0] - size[0] + 1)
    left = integers(0, image.shape[1] - size[1] + 1)
    return image[top : top + size[0], left : left + size[1]]


def cover(image: np.ndarray, size: Size) -> np.ndarray:
    """The smallest image of the same proportions that covers `size`.

    Halved by box filter while it stays at least that large, then resized by bicubic filter: Pillow's bicubic
    alone is slow for large photographs.
    """
    height, width = size
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    while picture.height >= 2 * height and picture.width >= 2 * width:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(height / picture.height, width / picture.width)
    resized = (round(picture.width * scale), round(picture.height * scale))
    pixels = np.asarray(picture.resize(resized, Image.Resampling.BICUBIC))
    return pixels.reshape(*pixels.shape[:2], image.shape[-1])


def to_float(images: jax.Array) -> jax.Array:
    """uint8 0…255 to float32 [−1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(x: jax.Array) -> jax.Array:
    """float32 [−1, 1] to uint8, clamped and truncated, not rounded: published numbers rest on it."""
    return jnp.clip((x + 1) * 127.5, 0, 255).astype(jnp.uint8)


def area_downsample(x: jax.Array, size: Size) -> jax.Array:
    """[B, H, W, C] to [B, h, w, C]: each pixel is the mean of the box of pixels that it replaces.

    Row i is the mean of rows ⌊iH/h⌋ … ⌈(i+1)H/h⌉ − 1, columns alike; boxes overlap where h does not divide H.
    """
    rows = _box_means(x.shape[1], size[0])
    columns = _box_means(x.shape[2], size[1])
    return jnp.einsum('iy,byxc,jx->bijc', rows, x, columns, precision='highest')


def reduce_images(images: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [B, H, W, C] to uint8 [B, h, w, C]: images made as small as an upsampler takes them."""
    return np.asarray(to_uint8(area_downsample(to_float(jnp.asarray(images)), size)))


def _box_means(length: int, boxes: int) -> np.ndarray:
    """The averaging matrix, float32 [boxes, length]."""
    start = np.arange(boxes) * length // boxes
    stop = -(-np.arange(1, boxes + 1) * length // boxes)
    place = np.arange(length)
    inside = (start[:, None] <= place) & (place < stop[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
