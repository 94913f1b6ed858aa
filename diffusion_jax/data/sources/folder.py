"""A folder of image files."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import EncodedSource
from diffusion_jax.data.sources.files import Listing, is_image, list_images, shown
from diffusion_jax.data.sources.splits import by_path, no_split, place_of, relative
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class FolderSource(EncodedSource):
    paths: Sequence[str] = field()  # without the default of Source
    root: str
    skipped: str = ''

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        return identity_of(self.paths, self.root)

    def encoded(self, index: int) -> str:
        return self.paths[index]

    def name_of(self, index: int) -> str:
        return shown(self.paths[index])


def folder_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None) -> FolderSource:
    """All images below the folder of the split, in the order of their names; see `by_path`."""
    path, inside = place_of(config, split)
    if inside or not os.path.isdir(path):
        raise no_split(config, split)
    listing = open_listing(path)
    labelled = by_path(listing.paths, listing.root, config, split, class_names)
    return listed_source(listing, config.image_channels, *labelled)


def listed_source(
    listing: Listing, channels: int, labels: np.ndarray | None = None, class_names: tuple[str, ...] = ()
) -> FolderSource:
    """The files of a listing, by default without labels."""
    labels = np.zeros(len(listing.paths), np.int32) if labels is None else labels
    return FolderSource(labels, class_names, channels, listing.paths, listing.root, listing.summary())


def holds_images(path: str) -> bool:
    """Whether a folder has an image file in it or below it."""
    return os.path.isdir(path) and any(
        is_image(name) and not name.startswith('.') for _, _, names in os.walk(path) for name in names
    )


def open_listing(root: str) -> Listing:
    """The images of a folder. Raises UserError where there are none."""
    return check_listing(list_images(root))


def check_listing(listing: Listing) -> Listing:
    """The same. Raises UserError where no image is listed."""
    if not listing.paths:
        raise UserError(
            shown(listing.root),
            f'contains no images ({listing.summary() or "it is empty"})',
            'images have a suffix that Pillow reads, such as .jpg, .png or .webp; sub-folders are searched',
        )
    return listing


def identity_of(paths: Sequence[str], root: str) -> str:
    """Differs for other names below `root`."""
    names = '\n'.join(relative(path, root) for path in paths)
    return f'{zlib.crc32(os.fsencode(names)):08x}'
