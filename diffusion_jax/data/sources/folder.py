"""A folder of image files."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import PictureSource
from diffusion_jax.data.sources.files import Listing, is_image, list_images, shown
from diffusion_jax.data.sources.labels import by_path, relative
from diffusion_jax.data.sources.places import no_split, place_of
from diffusion_jax.data.sources.reading import read_picture
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class FolderSource(PictureSource):
    paths: Sequence[str] = field()  # without the default of Source
    labels: np.ndarray  # int32 [N]
    class_names: tuple[str, ...]
    channels: int  # 3: everything becomes RGB, 1: grey
    root: str
    skipped: str = ''

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        return identity_of(self.paths, self.root)

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> dict[str, Any]:
        picture = read_picture(self.paths[index], self.channels, self.name_of(index))
        return {'image': picture, 'label': int(self.labels[index])}

    def name_of(self, index: int) -> str:
        return shown(self.paths[index])


def folder_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None) -> FolderSource:
    """All images below the folder of the split, in the order of their names; see `labels.by_path`."""
    place = place_of(config, split)
    if place.inside or not os.path.isdir(place.path):
        raise no_split(config, split)
    listing = open_listing(place.path)
    labels, class_names = by_path(
        listing.paths, place.path, config.labels, class_names, setting=f'{split}_split'
    )
    channels, summary = config.image_channels, listing.summary()
    return FolderSource(listing.paths, labels, class_names, channels, place.path, summary)


def holds_images(path: str) -> bool:
    """Whether a folder has an image file in it or below it."""
    return os.path.isdir(path) and any(
        is_image(name) and not name.startswith('.') for _, _, names in os.walk(path) for name in names
    )


def open_listing(root: str) -> Listing:
    """The images of a folder. Raises UserError where there are none."""
    listing = list_images(root)
    check_listing(listing)
    return listing


def check_listing(listing: Listing) -> None:
    """Raises UserError where no image is listed."""
    if not listing.paths:
        raise UserError(
            shown(listing.root),
            f'contains no images ({listing.summary() or "it is empty"})',
            'images have a suffix that Pillow reads, such as .jpg, .png or .webp; sub-folders are searched',
        )


def identity_of(paths: Sequence[str], root: str) -> str:
    """Differs for other names below `root`."""
    names = '\n'.join(relative(path, root) for path in paths)
    return f'{zlib.crc32(os.fsencode(names)):08x}'
