"""A folder of image files, all of one size or cropped to one."""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.data.sources.folder import EXTENSIONS, NOT_AN_IMAGE, list_images, read_image
from diffusion_jax.data.stored.image_set import even_parts, file_identity
from diffusion_jax.data.stored.source import THREADS, SourceImages
from diffusion_jax.data.transforms import Size, Transform, center_crop
from diffusion_jax.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpaqueFiles:
    """Image files as RGB."""

    paths: Sequence[str]
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises UserError for an image that is damaged or transparent."""
        path = self.paths[index]
        image = read_image(path, 3)
        with Image.open(path) as file:
            if file.has_transparency_data and np.asarray(file.convert('RGBA'))[..., 3].min() < 255:
                raise UserError(f'{path}: is transparent; put it on a background')
        return {'image': image, 'label': 0}


def open_folder(path: Path, size: Size | None) -> SourceImages:
    """All images in and below a folder, in a fixed random order.

    By name, those of a class would follow one another, and the Inception score, which is a mean over
    consecutive parts, would see few classes in each.

    Raises:
        UserError: there is no image, or, without a size to crop them to, they are not all of one size.
    """
    if not path.is_dir():
        raise UserError(f'{path}: no such folder')
    paths = list_images(str(path))
    random.Random(0).shuffle(paths)
    if not paths:
        raise UserError(f'{path}: no image there; looked for {", ".join(EXTENSIONS)} in it and below it')
    _look_through(path, paths, size)

    def identity(start: int, stop: int) -> str:
        files = ' '.join(map(file_identity, paths[start:stop]))
        return f'{zlib.crc32(files.encode()):08x} {size}'

    transform: Transform | None = None if size is None else (lambda image, rng: center_crop(image, size))
    return SourceImages(str(path), OpaqueFiles(paths), transform, None, even_parts(len(paths), identity))


def _look_through(folder: Path, paths: Sequence[str], size: Size | None) -> None:
    """Reads the headers of all files: what is wrong with an hour's work is said before it."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        read = zip(paths, pool.map(_header, paths), strict=True)
        headers = [(path, header) for path, header in read if header]
    grey = [path for path, (_, mode) in headers if mode in ('1', 'L', 'LA')]
    if grey:
        logger.warning('%s: is grey, as are %d of %d images; taken as RGB', grey[0], len(grey), len(paths))
    sizes = collections.Counter(shape for _, (shape, _) in headers)
    if size is None and len(sizes) > 1:
        (most, count), (other, _) = sizes.most_common(2)
        example = next(path for path, (shape, _) in headers if shape == other)
        raise UserError(
            f'{example}: has {other[0]}×{other[1]} pixels; {count} of the {len(paths)} images in {folder} '
            f'have {most[0]}×{most[1]}; give a size to crop to (--size), or leave one size only'
        )


def _header(path: str) -> tuple[tuple[int, int], str] | None:
    """Width and height, and the mode; None where it cannot be read: reading the image will say why."""
    try:
        with Image.open(path) as image:
            return image.size, image.mode
    except NOT_AN_IMAGE:
        return None
