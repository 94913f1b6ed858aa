"""A folder of image files, all of one size or cropped to one."""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.folder import FolderSource, open_listing
from diffusion_jax.data.sources.reading import read_header
from diffusion_jax.data.stored.image_set import TREATMENT, even_parts, file_identity
from diffusion_jax.data.stored.source import THREADS, SourceImages
from diffusion_jax.data.transforms import Transform, center_crop
from diffusion_jax.errors import UserError
from diffusion_jax.images import Size

logger = logging.getLogger(__name__)


def open_folder(path: Path, size: Size | None) -> SourceImages:
    """All images in and below a folder, in a fixed random order.

    By name, those of a class would follow one another, and the Inception score, which is a mean over
    consecutive parts, would see few classes in each.

    Raises:
        UserError: there is no image, or, without a size to crop them to, they are not all of one size.
    """
    listing = open_listing(str(path))
    paths = listing.paths
    random.Random(0).shuffle(paths)
    _look_through(path, paths, size)

    def identity(start: int, stop: int) -> str:
        files = ' '.join(map(file_identity, paths[start:stop]))
        return f'{zlib.crc32(files.encode()):08x} {size} {TREATMENT}'

    transform: Transform | None = None if size is None else (lambda image, rng: center_crop(image, size))
    source = FolderSource(paths, np.zeros(len(paths), np.int32), (), 3, str(path), listing.summary())
    return SourceImages(shown(path), source, transform, None, even_parts(len(paths), identity))


def _look_through(folder: Path, paths: Sequence[str], size: Size | None) -> None:
    """Reads the headers of all files: what is wrong with an hour's work is said before it."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        read = zip(paths, pool.map(read_header, paths), strict=True)
        headers = [(path, header) for path, header in read if header]
    grey = [path for path, (_, mode) in headers if mode in ('1', 'L', 'LA')]
    if grey:
        counts = f'{len(grey)} of {len(paths)} images'
        logger.warning('%s: is grey, as are %s; taken as RGB', shown(grey[0]), counts)
    sizes = collections.Counter(shape for _, (shape, _) in headers)
    if size is None and len(sizes) > 1:
        (most, count), (other, _) = sizes.most_common(2)
        example = next(path for path, (shape, _) in headers if shape == other)
        raise UserError(
            f'{shown(example)}: has {other[0]}×{other[1]} pixels; {count} of the {len(paths)} images in '
            f'{shown(folder)} have {most[0]}×{most[1]}; give a size to crop to (--size), or leave one size '
            'only'
        )
