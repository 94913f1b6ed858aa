"""Images in npz files, as arr_0, with their labels as arr_1: the authors' format, and samples in shards."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Collection, Iterator
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
from diffusion_jax.errors import UserError, reason

# What zipfile and NumPy raise for damaged files and for files of another format.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LOCAL_HEADER = 30  # bytes of a zip member's local header, before its name and extra field


def open_archive(path: Path, channels: Collection[int] = (1, 3)) -> ArrayImages:
    """Raises UserError where there is no such file, or arr_0 is not uint8 [N, H, W, C], C in `channels`."""
    arrays = read_archive(path, ('arr_0', 'arr_1'))
    images, labels = arrays.get('arr_0'), arrays.get('arr_1')
    if images is None:
        names = ', '.join(names_in_archive(path)) or 'nothing'
        raise UserError(str(path), f'has no images (arr_0, uint8 [N, H, W, 3]); it contains {names}')
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in channels or not images.size:
        hint = '; features of a network go into an npz as `features`' if images.ndim == 2 else ''
        expected = f'images are uint8 from 0 to 255, [N, H, W, 3], channels last{hint}'
        raise UserError(str(path), f'arr_0 is {images.dtype} {list(images.shape)}', expected)
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu'):
        expected = f'it must hold one integer for each of the {len(images)} images'
        raise UserError(str(path), f'arr_1 is {labels.dtype} {list(labels.shape)}', expected)
    if labels is not None and labels.min() < 0:
        raise UserError(str(path), f'arr_1 contains the label {labels.min()}', 'classes are numbered from 0')
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
        raise UserError(
            str(path), 'contains no samples', 'run the stage sample first, or give another folder'
        )
    existing = shards.list_shards(directory)
    labels = np.concatenate([shards.read(shard, 'arr_1')['arr_1'] for shard in existing])
    parts = [Part(shard.start, shard.stop, file_identity(shard.path)) for shard in existing]
    return SampleImages(str(path), labels, parts, directory)


def read_archive(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an npz has; memory-mapped where they are not compressed.

    Raises:
        UserError: there is no such file, or it is not an intact npz.
    """
    with _open(path) as archive:
        members = {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
        return {name: _read_member(path, archive, members[name]) for name in names if name in members}


def names_in_archive(path: Path) -> Collection[str]:
    """The names of an npz's arrays. Raises UserError as `read_archive` does."""
    with _open(path) as archive:
        return [name.removesuffix('.npy') for name in archive.namelist()]


def read_array(path: Path) -> np.ndarray:
    """The array of an .npy file. Raises UserError where it cannot be read."""
    try:
        with open(path, 'rb') as file:
            return np.lib.format.read_array(file)
    except UNREADABLE as error:
        raise UserError(str(path), f'cannot be read as an array ({reason(error)})') from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise UserError(str(path), 'no such file or folder')
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UNREADABLE as error:
        raise UserError(str(path), f'cannot be read as an npz file ({reason(error)})') from error


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(member)](member)
        header = member.tell()
        if info.compress_type != zipfile.ZIP_STORED or dtype.hasobject or not shape or 0 in shape:
            member.seek(0)
            return np.lib.format.read_array(member)
    with open(path, 'rb') as file:
        file.seek(info.header_offset + LOCAL_HEADER - 4)
        name_and_extra = sum(np.fromfile(file, '<u2', 2).tolist())
    offset = info.header_offset + LOCAL_HEADER + name_and_extra + header
    return np.memmap(path, dtype, 'r', offset, shape, 'F' if fortran else 'C')
