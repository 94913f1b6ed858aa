"""Arrays in npz and npy files, and the authors' npz of images: arr_0, with their labels as arr_1."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from diffusion_jax.errors import UserError, reason

# What zipfile and NumPy raise for damaged files and for files of another format.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LOCAL_HEADER = 30  # bytes of a zip member's local header


def read_images(path: Path, channels: Collection[int] = (1, 3)) -> tuple[np.ndarray, np.ndarray | None]:
    """arr_0, uint8 [N, H, W, C], and arr_1, int [N] or None; memory-mapped where they are not compressed.

    Raises:
        UserError: there is no such file, or the arrays are of other types or shapes; C must be in `channels`.
    """
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
    return images, labels


def checksum(path: Path) -> str:
    """Differs for other arrays in an npz; read from the checksums that it holds."""
    with _open(path) as archive:
        checksums = sorted((info.filename, info.CRC) for info in archive.infolist())
    return f'{zlib.crc32(repr(checksums).encode()):08x}'


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
        raise UserError(str(path), 'is a folder' if path.is_dir() else 'no such file or folder')
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise UserError(str(path), f'cannot be read ({reason(error)})') from error
    except UNREADABLE as error:
        raise UserError(str(path), f'is no npz file, or a damaged one ({reason(error)})') from error


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(member)](member)
        header = member.tell()
        if info.compress_type != zipfile.ZIP_STORED or dtype.hasobject or not shape or 0 in shape:
            member.seek(0)
            return np.lib.format.read_array(member)
    with open(path, 'rb') as file:
        file.seek(info.header_offset)
        offset = file.tell() + content_offset(file.read(LOCAL_HEADER)) + header
    return np.memmap(path, dtype, 'r', offset, shape, 'F' if fortran else 'C')


def content_offset(header: bytes) -> int:
    """Where the content of a zip's member begins: after its local header, its name and its extra field."""
    return LOCAL_HEADER + sum(struct.unpack('<HH', header[-4:]))
