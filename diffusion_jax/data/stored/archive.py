"""An npz in the authors' format: arr_0, uint8 images; arr_1, their labels, where they have some."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_jax.data.stored.image_set import Part, Rows, even_parts, file_identity
from diffusion_jax.errors import UserError, reason

# What zipfile and NumPy raise for files that are damaged, or something else.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
LOCAL_HEADER = 30  # bytes of a member's local header, before its name and extra field


@dataclass(frozen=True)
class ArrayImages:
    """Images that are in memory, or mapped into it."""

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    parts: Sequence[Part]

    def read(self, part: Part) -> Rows:
        return Rows(np.asarray(self.images[part.start : part.stop]), np.arange(part.stop - part.start))

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.images[indices])


def open_archive(path: Path, channels: Collection[int] = (1, 3)) -> ArrayImages:
    """Raises UserError where there is no such file, or arr_0 is not uint8 [N, H, W, C], C in `channels`."""
    arrays = read_archive(path, ('arr_0', 'arr_1'))
    images, labels = arrays.get('arr_0'), arrays.get('arr_1')
    if images is None:
        has = ', '.join(names_in_archive(path)) or 'nothing'
        raise UserError(f'{path}: has no images (arr_0, uint8 [N, H, W, 3]); it has {has}')
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in channels or not images.size:
        hint = '; features of a network go into an npz as `features`' if images.ndim == 2 else ''
        raise UserError(
            f'{path}: arr_0 is {images.dtype} {list(images.shape)}; images are uint8 from 0 to 255, '
            f'[N, H, W, 3], channels last{hint}'
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu'):
        raise UserError(
            f'{path}: arr_1 is {labels.dtype} {list(labels.shape)}; it must be a class for each of the '
            f'{len(images)} images'
        )
    if labels is not None and labels.min() < 0:
        raise UserError(f'{path}: arr_1 has the label {labels.min()}; classes are numbered from 0')
    identity = file_identity(path)
    return ArrayImages(str(path), images, labels, even_parts(len(images), lambda start, stop: identity))


def read_archive(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an npz has; mapped where they are not compressed.

    Raises:
        UserError: no such file, or it is no npz, or not whole.
    """
    members = _members(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read_member(path, archive, members[name]) for name in names if name in members}
    except UNREADABLE as error:
        raise UserError(f'{path}: no npz file, or one that is not whole ({reason(error)})') from error


def names_in_archive(path: Path) -> Collection[str]:
    """The names of an npz's arrays. UserError where it is none."""
    return _members(path).keys()


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    if not path.is_file():
        raise UserError(f'{path}: no such file or folder')
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
    except UNREADABLE as error:
        raise UserError(f'{path}: no npz file, or one that is not whole ({reason(error)})') from error


def read_array(path: Path) -> np.ndarray:
    """The array of an .npy file. UserError where there is none."""
    try:
        array = np.load(path)
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file') from error
    except UNREADABLE as error:
        raise UserError(f'{path}: cannot be read as an array ({reason(error)})') from error
    if not isinstance(array, np.ndarray):
        raise UserError(f'{path}: holds several arrays; call it .npz')
    return array


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[np.lib.format.read_magic(member)](member)
        data = member.tell()
    if dtype.hasobject:
        raise UserError(f'{path}: {info.filename} holds Python objects; save an array of numbers')
    if info.compress_type != zipfile.ZIP_STORED or not shape or 0 in shape:
        with archive.open(info) as member:
            return np.lib.format.read_array(member)
    with open(path, 'rb') as file:
        file.seek(info.header_offset + LOCAL_HEADER - 4)
        name_length, extra_length = np.fromfile(file, '<u2', 2).tolist()
    offset = info.header_offset + LOCAL_HEADER + name_length + extra_length + data
    return np.memmap(path, dtype, 'r', offset, shape, 'F' if fortran else 'C')
