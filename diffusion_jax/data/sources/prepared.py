"""Images that `diffusion-jax prepare` stored as pixels in ArrayRecord files."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from diffusion_jax.data.classes import check_same_classes
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.manifest import MANIFEST_FILE, Manifest, is_prepared, read_manifest
from diffusion_jax.data.sources.places import no_split, place_of
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.errors import UserError, reason
from diffusion_jax.images import Size

PREPARE_AGAIN = 'give the command `diffusion-jax prepare` of this folder again'


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

    @property
    def name(self) -> str:
        return shown(self.folder)

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
    place = place_of(config, split)
    if place.inside and not place.inside == split == 'train':
        raise no_split(config, split)
    folder = Path(place.path)
    if not is_prepared(folder):
        remedy = 'prepare them with `diffusion-jax prepare`, or name another folder'
        raise UserError(shown(folder), f'has no {MANIFEST_FILE} of prepared images', remedy)
    manifest = read_manifest(folder)
    _check_fits(folder, manifest, config)
    source = open_prepared(folder, manifest, labelled=config.labels != 'none')
    if class_names is not None:
        check_same_classes(source.name, source.class_names, 'the training images', class_names)
    return source


def open_prepared(folder: Path, manifest: Manifest, *, labelled: bool = True) -> PreparedSource:
    """Complete prepared images. Raises UserError where shards are missing or damaged."""
    if not manifest.complete:
        problem = f'has {len(manifest.shards)} of {manifest.num_shards} shards: preparing it was interrupted'
        raise UserError(shown(folder), problem, PREPARE_AGAIN)
    for shard in manifest.shards:
        path = folder / shard.file
        size = path.stat().st_size if path.exists() else None
        if size != shard.bytes:
            problem = 'is missing' if size is None else f'has {size:,} bytes, not {shard.bytes:,}'
            raise UserError(shown(path), problem, f'restore it, or {PREPARE_AGAIN}')
    # A range saves opening every file to count its records.
    names = [f'{folder / shard.file}[0:{shard.images + 1}]' for shard in manifest.shards]
    records = grain.sources.ArrayRecordDataSource(names)
    tables = np.cumsum([shard.images + 1 for shard in manifest.shards]) - 1
    table = np.concatenate([_read_table(folder, manifest, records, tables, i) for i in range(len(tables))])
    keys = np.delete(np.arange(len(records)), tables)
    class_names = manifest.class_names if labelled else ()
    return PreparedSource(folder, manifest, class_names, records, table, keys)


def _read_table(
    folder: Path, manifest: Manifest, records: Sequence[bytes], keys: np.ndarray, number: int
) -> np.ndarray:
    """int32 [images of the shard, 3]."""
    shard = manifest.shards[number]
    try:
        return np.frombuffer(records[keys[number]], np.int32).reshape(shard.images, 3)
    except Exception as error:  # ArrayRecord has no error of its own
        problem = f'is damaged ({reason(error)})'
        raise UserError(
            shown(folder / shard.file), problem, f'restore it, or remove it and {PREPARE_AGAIN}'
        ) from error


def _check_fits(folder: Path, manifest: Manifest, config: DataConfig) -> None:
    """Raises UserError where the config asks for pixels that were not kept."""
    if manifest.channels != config.image_channels:
        problem = f'{config.image_channels}, but the images in {shown(folder)} have {manifest.channels}'
        raise UserError(
            'config.data.image_channels', problem, 'prepare them with --channels, or change the setting'
        )
    size = manifest.image_size
    if size and (size[0] < config.image_size[0] or size[1] < config.image_size[1]):
        wanted = '{}×{}'.format(*config.image_size)
        problem = f'{wanted}, but the images in {shown(folder)} were cropped to {size[0]}×{size[1]}'
        remedy = 'prepare them with a larger --size in another folder, or lower the setting'
        raise UserError('config.data.image_size', problem, remedy)
