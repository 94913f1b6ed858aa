"""How an image file becomes pixels: one treatment for training, evaluation and references."""

import contextlib
import io

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.transforms import as_array
from diffusion_jax.errors import UserError, reason

WIDE_MODES = ('I', 'F')  # prefixes of Pillow's modes of more than 8 bits
# Sides of an image. Beyond, a crop to a square enlarges a strip of few pixels, by gigabytes before it is cut.
MOST_ELONGATED = 100


class UnreadableImage(UserError):
    """An image that cannot be used. A training that meets it stops with this error."""

    def __init__(self, where: str, problem: str):
        remedy = 'repair the file or set config.data.on_error=skip, then give the same command again'
        super().__init__(where, problem, remedy)

    @property
    def description(self) -> str:
        """'<file>: <reason>'."""
        return f'{self.where}: {self.problem}'


def read_image(file: str | bytes, channels: int) -> np.ndarray:
    """uint8 [H, W, channels]; see `read_picture`."""
    return as_array(read_picture(file, channels))


def read_picture(file: str | bytes, channels: int, name: str = '') -> Image.Image:
    """An image of Pillow's mode RGB or L, for 3 channels or 1; the first frame of an animation.

    The orientation in EXIF data is applied, and transparent pixels are put on white.

    Args:
        file: a path, or the content of a file.
        name: stands for the image in errors, where there is no path.

    Raises:
        UnreadableImage: it is damaged, too large for Pillow, a line rather than an image, or has a single
            channel of more than 8 bits: which of its values is white is not known.
    """
    name = name or (shown(file) if isinstance(file, str) else 'image')
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            if image.mode.startswith(WIDE_MODES):
                raise UnreadableImage(name, 'has more than 8 bits a channel')
            if max(image.size) > MOST_ELONGATED * min(image.size):
                size = f'{image.width}×{image.height} pixels'
                raise UnreadableImage(name, f'has {size}, one side over {MOST_ELONGATED} times the other')
            image.load()
            with contextlib.suppress(Exception):  # damaged EXIF data: the pixels are still good
                ImageOps.exif_transpose(image, in_place=True)
            return converted(_on_white(image), channels)
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's formats raise errors of all kinds for damaged files
        unknown = isinstance(error, UnidentifiedImageError)  # its message repeats the path
        why = 'unknown image format' if unknown else reason(error)
        raise UnreadableImage(name, f'cannot be read as an image ({why})') from error


def converted(picture: Image.Image, channels: int) -> Image.Image:
    """An image of Pillow's mode RGB or L, for 3 channels or 1."""
    mode = {1: 'L', 3: 'RGB'}[channels]
    return picture if picture.mode == mode else picture.convert(mode)  # which copies


def read_header(path: str) -> tuple[tuple[int, int], str] | None:
    """Width and height as `read_image` returns them, and Pillow's mode; None where the file has no header."""
    try:
        with Image.open(path) as image:
            if image.format == 'TIFF':  # depending on its version Pillow turns it when it is opened or loaded
                image.load()
                return image.size, image.mode
            width, height = image.size
            # PngImageFile.getexif would decode the image for EXIF data that follow it.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return ((height, width) if turned else (width, height)), image.mode
    except Exception:
        return None


def _on_white(image: Image.Image) -> Image.Image:
    """An image with transparent pixels as RGB; any other unchanged."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert('RGBA')
    if rgba.getchannel('A').getextrema()[0] == 255:
        return image
    return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), rgba).convert('RGB')
