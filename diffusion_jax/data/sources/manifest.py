"""What a folder of prepared images says of itself: manifest.json, which `diffusion-jax prepare` writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.images import Size
from diffusion_jax.workdir import read_json, write_json

MANIFEST_FILE = 'manifest.json'
VERSION = 1


@dataclass(frozen=True)
class PreparedShard:
    """An ArrayRecord file: one record of pixels an image, then one that describes them all.

    Attributes:
        number: its images are those from number · images_per_shard of the source.
        images: the number of images in it; unreadable ones are left out.
        bytes, sha256: of the file.
    """

    number: int
    images: int
    bytes: int
    sha256: str

    @property
    def file(self) -> str:
        return f'{self.number:05d}.array_record'


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why; `shard` is the number of the shard that lacks it."""

    image: str
    problem: str
    shard: int


@dataclass(frozen=True)
class Manifest:
    """Attributes:
    source: which images these are: path, split, number and identity of the original images.
    class_names: in label order; () where images have no labels.
    image_size: height and width of all images; None where each has its own.
    channels: 1, grey, or 3, RGB.
    images_per_shard: of the source, including those that are skipped.
    complete: whether all shards are written.
    class_counts: the number of images of each class, when complete.
    """

    source: Mapping[str, Any]
    class_names: tuple[str, ...]
    image_size: Size | None
    channels: int
    images_per_shard: int
    version: int = VERSION
    complete: bool = False
    class_counts: tuple[int, ...] = ()
    skipped: Sequence[Skipped] = ()
    shards: Sequence[PreparedShard] = ()

    @property
    def num_images(self) -> int:
        return sum(shard.images for shard in self.shards)

    @property
    def num_shards(self) -> int:
        """Of the complete data set."""
        return -(-self.source['images'] // self.images_per_shard)


def is_prepared(folder: str | Path) -> bool:
    """Whether `diffusion-jax prepare` wrote this folder, or began to; others write a manifest.json, too."""
    path = Path(folder) / MANIFEST_FILE
    return path.is_file() and b'"images_per_shard"' in path.read_bytes()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json, atomically."""
    write_json(folder / MANIFEST_FILE, {'images': manifest.num_images} | dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises UserError where it is damaged, or of another version."""
    path, remedy = folder / MANIFEST_FILE, 'restore it, or prepare the images again in another folder'
    stored = read_json(path, remedy)
    if stored.get('version', VERSION) != VERSION:
        problem = f'has the version {stored["version"]}; this program reads version {VERSION}'
        raise UserError(str(path), problem, remedy)
    try:
        stored.pop('images')
        size = stored['image_size']
        return Manifest(
            **stored
            | {
                'class_names': tuple(stored['class_names']),
                'class_counts': tuple(stored['class_counts']),
                'image_size': size and (size[0], size[1]),
                'skipped': [Skipped(**each) for each in stored['skipped']],
                'shards': [PreparedShard(**each) for each in stored['shards']],
            }
        )
    except (KeyError, TypeError) as error:
        raise UserError(str(path), 'is no manifest of prepared images', remedy) from error
