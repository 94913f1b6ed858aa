"""Many images as one picture."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusion_jax import workdir
from diffusion_jax.generation.arguments import check_array
from diffusion_jax.generation.sampling import Samples

MIN_TILE = 48
PADDING = 4
WHITE = 255
MAX_ROWS = 20


def image_grid(
    images: np.ndarray, columns: int, scale: int | None = None, row_labels: Sequence[str] | None = None
) -> np.ndarray:
    """Images row after row on white, with thin gaps, uint8 [height, width, C].

    Args:
        images: uint8 [N, H, W, C], grey (C = 1) or RGB; the last row may be shorter.
        columns: the largest number of images in a row.
        scale: each pixel becomes scale×scale pixels; by default tiles are at least 48 wide and high.
        row_labels: drawn at the left of each row.

    Raises:
        UserError: the images are no such array.
    """
    images = check_array('images', images, ('N', 'H', 'W', 'C'), np.uint8)
    columns = min(columns, len(images))
    scale = scale or math.ceil(MIN_TILE / min(images.shape[1:3]))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    before = ((0, -len(images) % columns), (PADDING, 0), (PADDING, 0), (0, 0))
    tiles = np.pad(tiles, before, constant_values=WHITE)
    count, height, width, channels = tiles.shape
    rows = tiles.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    grid = rows.reshape(count // columns * height, columns * width, channels)
    grid = np.pad(grid, ((0, PADDING), (0, PADDING), (0, 0)), constant_values=WHITE)
    if row_labels is None:
        return grid
    return np.concatenate([_label_column(row_labels, len(grid), height, channels), grid], axis=1)


def class_grid(
    take: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, columns: int, names: Sequence[str] | None
) -> np.ndarray:
    """The first images of the first classes, one class a row; the first images where that makes no rows.

    Args:
        take: indices → these images.
        names: of the classes by label, () where they are not known; None where the images are of no class,
            and the rows only correspond to those of guided samples.
    """
    classes = np.unique(labels)[:MAX_ROWS]
    per_class = min(columns, *(np.sum(labels == label) for label in classes))
    if len(classes) == 1 or per_class == 1:
        first = np.arange(min(columns * columns, len(labels)))
        return image_grid(take(first), columns)
    chosen = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in classes])
    row_labels = None if names is None else [names[label] if names else str(label) for label in classes]
    return image_grid(take(chosen), per_class, row_labels=row_labels)


def show(
    images: np.ndarray | Samples, columns: int = 8, row_labels: Sequence[str] | None = None
) -> Image.Image:
    """A grid that notebooks display; arguments are those of `image_grid`."""
    images = images.images if isinstance(images, Samples) else images
    return _picture(image_grid(images, columns, row_labels=row_labels))


def png_bytes(image: np.ndarray) -> bytes:
    """uint8 [H, W, C], grey, grey with alpha, RGB or RGBA, as the content of a PNG file."""
    file = io.BytesIO()
    _picture(image).save(file, 'PNG')
    return file.getvalue()


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Writes `png_bytes` atomically."""
    workdir.write_bytes(path, png_bytes(image))


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _label_column(labels: Sequence[str], height: int, row_height: int, channels: int) -> np.ndarray:
    font = ImageFont.load_default(min(row_height // 2, 20))
    margin = 2 * PADDING
    column = Image.new('L', (math.ceil(max(map(font.getlength, labels))) + 2 * margin, height), WHITE)
    draw = ImageDraw.Draw(column)
    for row, label in enumerate(labels):
        middle = PADDING // 2 + row * row_height + row_height / 2
        draw.text((column.width - margin, middle), label, fill=0, font=font, anchor='rm')
    return np.repeat(np.asarray(column)[..., None], channels, axis=-1)
