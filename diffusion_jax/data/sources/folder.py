"""A folder of image files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import NamedSource
from diffusion_jax.data.sources.files import Listing, is_image, list_images, shown
from diffusion_jax.data.sources.labels import by_path
from diffusion_jax.data.sources.splits import no_split, place_of
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class FolderSource(NamedSource):
    @property
    def paths(self) -> Sequence[str]:  # type: ignore[override]
        return self.names

    def encoded(self, index: int) -> str:
        return self.names[index]


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
