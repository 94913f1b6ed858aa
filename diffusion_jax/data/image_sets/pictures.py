"""Pictures of any size, cropped to one as images are for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffusion_jax.data.image_sets.archive import open_archive
from diffusion_jax.data.image_sets.base import ArrayImages, ImageSet, even_parts, file_identity
from diffusion_jax.data.image_sets.source import SourceImages
from diffusion_jax.data.sources.files import is_image, shown
from diffusion_jax.data.sources.folder import FolderSource, open_listing
from diffusion_jax.data.transforms import center_crop
from diffusion_jax.images import Size


def open_pictures(path: str | Path, size: Size, channels: int) -> ImageSet:
    """The pictures of an npz, of one image file, or of a folder: all in and below it, by their names.

    Args:
        size: height and width to which they are cropped at the centre; see `center_crop`.
        channels: 1, grey, or 3, RGB, to which image files are converted.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    path = Path(path)
    if not path.is_dir() and (not path.is_file() or not is_image(str(path))):
        archive = open_archive(path)
        images = archive.images
        if images.shape[1:3] != size:
            images = np.stack([center_crop(image, size) for image in images])
        return ArrayImages(archive.name, archive.labels, archive.parts, images)
    listing = open_listing(str(path)) if path.is_dir() else None
    paths = listing.paths if listing else [str(path)]
    skipped = listing.summary() if listing else ''
    source = FolderSource(paths, np.zeros(len(paths), np.int32), (), channels, str(path), skipped)
    parts = even_parts(len(paths), lambda start, stop: ' '.join(map(file_identity, paths[start:stop])))
    order = np.arange(len(paths))
    return SourceImages(shown(path), None, parts, source, lambda image, rng: center_crop(image, size), order)


def picture_files(path: Path) -> list[str]:
    """The files that `open_pictures` reads."""
    return open_listing(str(path)).paths if path.is_dir() else [str(path)]
