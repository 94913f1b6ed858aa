"""Images that `diffusion-jax prepare` stored as pixels in ArrayRecord files, and the manifest of them."""

import dataclasses
import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from diffusion_jax.data.classes import check_same_classes
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.data.sources.splits import no_split, place_of
from diffusion_jax.errors import UserError, reason
from diffusion_jax.images import Size
from diffusion_jax.workdir import read_json, write_json

MANIFEST_FILE = 'manifest.json'
VERSION = 1
PREPARE_AGAIN = 'give the command `diffusion-jax prepare` of this folder again'


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

    def size_in(self, folder: Path) -> int | None:
        """The bytes that its file has; None where it is missing."""
        path = folder / self.file
        return path.stat().st_size if path.exists() else None


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
        del stored['images']
        skipped = [Skipped(**each) for each in stored['skipped']]
        shards = [PreparedShard(**each) for each in stored['shards']]
        stored = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        return Manifest(**stored | {'skipped': skipped, 'shards': shards})
    except (KeyError, TypeError) as error:
        raise UserError(str(path), 'is no manifest of prepared images', remedy) from error


@dataclass(frozen=True)
class PreparedSource(Source):
    """Attributes:
    records: of all shards, one after the other; the last of each is its table.
    table: int32 [N, 3], the label, height and width of each image.
    keys: [N], which record is an image.
    """

    folder: Path
    manifest: Manifest
    class_names: tuple[str, ...]
    records: Sequence[bytes]
    table: np.ndarray
    keys: np.ndarray

    @functools.cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]  # computed when it is asked for
        return self.table[:, 0] if self.class_names else np.zeros(len(self), np.int32)

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        """Of the pixels and labels, wherever they came from."""
        return f'{zlib.crc32(" ".join(shard.sha256 for shard in self.manifest.shards).encode()):08x}'

    @property
    def files(self) -> Sequence[str]:  # type: ignore[override]
        return [os.fspath(self.folder / shard.file) for shard in self.manifest.shards]

    @property
    def cropped(self) -> Size | None:  # type: ignore[override]
        return self.manifest.image_size

    def __len__(self) -> int:
        return len(self.table)

    def picture(self, index: int) -> dict[str, Any]:
        """See Source. A damaged record is an unreadable image; ArrayRecord has checksums."""
        _, height, width = self.table[index]
        try:
            record = self.records[self.keys[index]]
        except Exception as error:  # ArrayRecord has no error of its own
            raise UnreadableImage(self.name_of(index), f'cannot be read ({reason(error)})') from error
        pixels = np.frombuffer(record, np.uint8).reshape(height, width, self.manifest.channels)
        return {'image': pixels, 'label': int(self.labels[index])}

    def name_of(self, index: int) -> str:
        number = int(self.keys[index])
        for shard in self.manifest.shards:
            if number <= shard.images:
                break
            number -= shard.images + 1
        return f'{shown(self.folder / shard.file)}, record {number}'


def prepared_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None) -> PreparedSource:
    """The prepared images of a split; `class_names`, if any, are those of the training images.

    Raises:
        UserError: they are incomplete, damaged, or too small or of other channels than the config asks for.
    """
    path, inside = place_of(config, split)
    if inside and not inside == split == 'train':
        raise no_split(config, split)
    folder = Path(path)
    if not is_prepared(folder):
        remedy = 'prepare them with `diffusion-jax prepare`, or name another folder'
        raise UserError(shown(folder), f'has no {MANIFEST_FILE} of prepared images', remedy)
    manifest = read_manifest(folder)
    _check_fits(folder, manifest, config)
    source = open_prepared(folder, manifest, labelled=config.labels != 'none')
    if class_names is not None:
        check_same_classes(shown(folder), source.class_names, 'the training images', class_names)
    return source


def open_prepared(folder: Path, manifest: Manifest, *, labelled: bool = True) -> PreparedSource:
    """Complete prepared images. Raises UserError where shards are missing or damaged."""
    if not manifest.complete:
        problem = f'has {len(manifest.shards)} of {manifest.num_shards} shards: preparing it was interrupted'
        raise UserError(shown(folder), problem, PREPARE_AGAIN)
    for shard in manifest.shards:
        size = shard.size_in(folder)
        if size != shard.bytes:
            problem = 'is missing' if size is None else f'has {size:,} bytes, not {shard.bytes:,}'
            raise UserError(shown(folder / shard.file), problem, f'restore it, or {PREPARE_AGAIN}')
    # A range saves opening every file to count its records.
    names = [f'{folder / shard.file}[0:{shard.images + 1}]' for shard in manifest.shards]
    records = grain.sources.ArrayRecordDataSource(names)
    ends = np.cumsum([shard.images + 1 for shard in manifest.shards]) - 1
    tables = []
    for shard, end in zip(manifest.shards, ends, strict=True):
        try:
            tables.append(np.frombuffer(records[end], np.int32).reshape(shard.images, 3))
        except Exception as error:  # ArrayRecord has no error of its own
            where, problem = shown(folder / shard.file), f'is damaged ({reason(error)})'
            raise UserError(where, problem, f'restore it, or remove it and {PREPARE_AGAIN}') from error
    keys = np.delete(np.arange(len(records)), ends)
    class_names = manifest.class_names if labelled else ()
    return PreparedSource(folder, manifest, class_names, records, np.concatenate(tables), keys)


def _check_fits(folder: Path, manifest: Manifest, config: DataConfig) -> None:
    """Raises UserError where the config asks for pixels that were not kept."""
    if manifest.channels != config.image_channels:
        problem = f'{config.image_channels}, but the images in {shown(folder)} have {manifest.channels}'
        remedy = 'prepare them with --channels, or change the setting'
        raise UserError('config.data.image_channels', problem, remedy)
    size = manifest.image_size
    if size and (size[0] < config.image_size[0] or size[1] < config.image_size[1]):
        wanted = '{}×{}'.format(*config.image_size)
        problem = f'{wanted}, but the images in {shown(folder)} were cropped to {size[0]}×{size[1]}'
        remedy = 'prepare them with a larger --size in another folder, or lower the setting'
        raise UserError('config.data.image_size', problem, remedy)
