"""Images in npz files, as arr_0, with their labels as arr_1: the authors' format, and samples in shards."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_jax import shards
from diffusion_jax.data.image_sets.base import (
    ArrayImages,
    ImageSet,
    Part,
    PartImages,
    even_parts,
    file_identity,
)
from diffusion_jax.data.npz import read_images
from diffusion_jax.errors import UserError


def open_archive(path: Path, channels: Collection[int] = (1, 3)) -> ArrayImages:
    """The images of an npz. Raises UserError as `read_images` does."""
    images, labels = read_images(path, channels)
    identity = file_identity(path)
    return ArrayImages(str(path), labels, even_parts(len(images), lambda start, stop: identity), images)


@dataclass(frozen=True)
class SampleImages(ImageSet):
    """The rows of all shards; each shard is a part."""

    directory: Path

    def read(self, part: Part) -> PartImages:
        images = shards.read(shards.shard(self.directory, part.start, part.stop), 'arr_0')['arr_0']
        return PartImages(images, np.arange(len(images)))


def shard_folder(path: Path) -> Path | None:
    """The folder of shards that `path` is or contains."""
    return next((folder for folder in (path / shards.SHARDS, path) if shards.list_shards(folder)), None)


def open_samples(path: Path) -> SampleImages:
    """The samples that exist now. Raises UserError where there are none."""
    directory = shard_folder(path)
    if directory is None:
        remedy = 'run the stage sample first, or give another folder'
        raise UserError(str(path), 'contains no samples', remedy)
    existing = shards.list_shards(directory)
    labels = np.concatenate([shards.read(shard, 'arr_1')['arr_1'] for shard in existing])
    parts = [Part(shard.start, shard.stop, file_identity(shard.path)) for shard in existing]
    return SampleImages(str(path), labels, parts, directory)
