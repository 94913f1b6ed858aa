"""Pictures of any size, cropped to one as images are for training."""

import dataclasses
from pathlib import Path

import numpy as np

from diffusion_jax.data.image_sets.archive import open_archive
from diffusion_jax.data.image_sets.base import ImageSet, file_identity
from diffusion_jax.data.image_sets.source import source_images
from diffusion_jax.data.sources.files import Listing, is_image, shown
from diffusion_jax.data.sources.folder import listed_source, open_listing
from diffusion_jax.data.transforms import center_crop, cropped_to
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
        if archive.images.shape[1:3] == size:
            return archive
        images = np.stack([center_crop(image, size) for image in archive.images])
        return dataclasses.replace(archive, images=images)
    source = listed_source(_listing(path), channels)

    def identity(start: int, stop: int) -> str:
        return ' '.join(map(file_identity, source.paths[start:stop]))

    return source_images(shown(path), source, cropped_to(size), identity)


def picture_files(path: Path) -> list[str]:
    """The files that `open_pictures` reads."""
    return _listing(path).paths


def _listing(path: Path) -> Listing:
    return open_listing(str(path)) if path.is_dir() else Listing(str(path), [str(path)])
