"""Many images as one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusion_jax import workdir
from diffusion_jax.generation.arguments import check_array
from diffusion_jax.generation.sampling import Samples

MIN_TILE = 48
PADDING = 4
WHITE = 255


def image_grid(
    images: np.ndarray, columns: int, scale: int | None = None, row_labels: Sequence[str] | None = None
) -> np.ndarray:
    """Images in rows on white, with thin gaps.

    Args:
        images: uint8 [N, H, W, C], grey (C = 1) or RGB, row after row; the last row may be shorter.
        scale: every pixel becomes so many pixels squared; by default as many as make a tile at least 48 wide
            and high.
        row_labels: drawn at the left of each row.

    Returns:
        uint8 [height, width, C].

    Raises:
        UserError: the images are no such array.
    """
    images = check_array('images', images, ('N', 'H', 'W', 'C'), np.uint8)
    num_images, height, width, channels = images.shape
    scale = scale or math.ceil(MIN_TILE / min(height, width))
    rows = math.ceil(num_images / columns)
    cell_height, cell_width = height * scale + PADDING, width * scale + PADDING
    shape = (rows * cell_height + PADDING, columns * cell_width + PADDING, channels)
    grid = np.full(shape, WHITE, np.uint8)
    for index, image in enumerate(images.repeat(scale, axis=1).repeat(scale, axis=2)):
        top = PADDING + index // columns * cell_height
        left = PADDING + index % columns * cell_width
        grid[top : top + height * scale, left : left + width * scale] = image
    if row_labels is None:
        return grid
    return np.concatenate([_label_column(row_labels, shape[0], cell_height, channels), grid], axis=1)


def show(
    images: np.ndarray | Samples, columns: int = 8, row_labels: Sequence[str] | None = None
) -> Image.Image:
    """A grid that notebooks display; arguments are those of `image_grid`."""
    images = images.images if isinstance(images, Samples) else images
    images = check_array('images', images, ('N', 'H', 'W', 'C'), np.uint8)
    return _picture(image_grid(images, min(columns, len(images)), row_labels=row_labels))


def save_png(path: str | Path, image: np.ndarray) -> None:
    """uint8 [H, W, C]: grey, grey with alpha, RGB or RGBA; the file is written whole or not at all."""
    file = io.BytesIO()
    _picture(image).save(file, 'PNG')
    workdir.write_bytes(path, file.getvalue())


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
