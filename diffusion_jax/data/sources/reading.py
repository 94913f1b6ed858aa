"""How an image file becomes pixels: one treatment for training, evaluation and references."""

from __future__ import annotations

import contextlib
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from diffusion_jax.data.sources.files import shown
from diffusion_jax.errors import UserError

WIDE_MODES = ('I', 'F')  # how the names of Pillow's modes of more than 8 bits begin


class UnreadableImage(UserError):
    """An image that cannot be used. The message names it and says why, without what to do."""


def read_image(file: str | BinaryIO, channels: int, name: str = '') -> np.ndarray:
    """uint8 [H, W, channels], RGB or grey; an animation gives its first frame.

    The orientation that EXIF data give is applied, and transparent pixels are put on white. The authors'
    release does neither: it ignores the orientation and drops the alpha channel.

    Args:
        file: a path, or an open file.
        name: stands for the image in errors, where there is no path.

    Raises:
        UnreadableImage: it is damaged, too large for Pillow, or has more than 8 bits a channel.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith(WIDE_MODES):
                raise UnreadableImage(f'{name or shown(file)}: has more than 8 bits a channel; 8 are needed')
            image.load()
            pixels = np.asarray(_on_white(_upright(image)).convert({1: 'L', 3: 'RGB'}[channels]))
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's formats raise errors of all kinds for damaged files
        reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose message repeats the path
            reason = 'its content is of no format that Pillow knows'
        raise UnreadableImage(f'{name or shown(file)}: cannot be read as an image ({reason})') from error
    return pixels.reshape(*pixels.shape[:2], channels)


def read_header(path: str) -> tuple[tuple[int, int], str] | None:
    """Width and height as `read_image` returns them, and Pillow's mode; None where the file has no header."""
    try:
        with Image.open(path) as image:
            if image.format == 'TIFF':  # Pillow turns it itself, when it is opened or loaded, by version
                image.load()
                return image.size, image.mode
            width, height = image.size
            # PngImageFile.getexif would decode the image for EXIF data that follow it.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return ((height, width) if turned else (width, height)), image.mode
    except Exception:
        return None


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # damaged EXIF data: the pixels are as good as without any
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """An image with transparent pixels as RGB; any other as it is."""
    if not image.has_transparency_data:
        return image
    colours = image.convert('RGBA')
    if colours.getchannel('A').getextrema()[0] == 255:
        return image
    return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), colours).convert('RGB')
