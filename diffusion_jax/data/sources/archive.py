"""Images in a .zip or an uncompressed .tar, read without unpacking it."""

import functools
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.npz import LOCAL_HEADER, content_offset
from diffusion_jax.data.sources.base import NamedSource
from diffusion_jax.data.sources.files import HIDDEN, Listing, is_image, shown
from diffusion_jax.data.sources.folder import check_listing
from diffusion_jax.data.sources.labels import by_path
from diffusion_jax.data.sources.splits import SPLITS, place_of
from diffusion_jax.errors import UserError, reason

# How files of other programs begin, and the command that makes an uncompressed tar of them.
COMPRESSED = {b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'(\xb5/\xfd': 'zstd'}
SUFFIXES = ('.zip', '.tar', '.tgz', '.tbz2', '.txz', '.tzst', '.tar.gz', '.tar.bz2', '.tar.xz', '.tar.zst')
DAMAGED = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError)
IN_TAR = -1  # stands for the method of compression
LARGEST = 2**30  # bytes of an unpacked file; a larger one is damaged or made to exhaust the memory


class Member(NamedTuple):
    """A regular file in an archive. start: its first byte; in a zip that of the header before it."""

    start: int
    packed: int
    size: int
    method: int
    checksum: int


Entry = tuple[str, Member | None]  # a file by its name; None for a link or a device


class OpenFile:
    """A file that threads read at any position. While it is open, replacing its path changes nothing."""

    def __init__(self, path: str):
        self.path, self.file = path, open(path, 'rb')

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFile, (self.path,)

    def read(self, start: int, size: int) -> bytes:
        """Raises OSError, or ValueError where the file ends before."""
        data = os.pread(self.file.fileno(), size, start)
        if len(data) < size:
            raise ValueError('the archive ends in it')
        return data


@dataclass(frozen=True)
class ArchiveSource(NamedSource):
    """members: int64 [N, 5], a `Member` a row. archive: the file that was listed."""

    members: np.ndarray = field(kw_only=True)
    archive: OpenFile = field(kw_only=True)

    @property
    def files(self) -> Sequence[str]:  # type: ignore[override]
        return (self.archive.path,)

    def encoded(self, index: int) -> bytes:
        return _read(self.archive, Member(*map(int, self.members[index])))


def archive_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None) -> ArchiveSource:
    """The images of a split, which is a folder in the archive or an archive of its own.

    Folders give classes and splits as outside an archive. A single folder that holds all others, as zip adds
    one, is skipped. An archive without splits is the training split.
    """
    path, inside = place_of(config, split)
    if not os.path.isfile(path):
        raise UserError(shown(path), 'is no archive', 'set config.data.path to a .zip or .tar file')
    archive, entries = _listed(path, os.stat(path).st_mtime_ns)
    root = os.path.join(path, _folder(path, entries, inside, split)).rstrip(os.sep)
    listing, members, below = Listing(root), dict[str, Member](), os.path.join(root, '')
    for name, member in entries:
        full = os.path.join(path, name)
        if not full.startswith(below):
            continue
        if _is_hidden(name):
            listing.skip(HIDDEN, full)
        elif listing.add(full, member is not None) and member:
            members[full] = member
    check_listing(listing)
    names = sorted(members)
    labels, class_names = by_path(names, root, config, split, class_names)
    table = np.array([members[name] for name in names], np.int64)
    named = (config.image_channels, names, root, listing.summary())
    return ArchiveSource(labels, class_names, *named, members=table, archive=archive)


def is_archive(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and os.path.isfile(path)


def _is_hidden(name: str) -> bool:
    return any(part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


def _folder(path: str, entries: Sequence[Entry], inside: str, split: str) -> str:
    """The folder in the archive that holds the split. Raises UserError where there is none."""
    parts = [name.split('/') for name, _ in entries if is_image(name) and not _is_hidden(name)]
    tops = {names[0] for names in parts}
    base = ''
    if len(tops) == 1 and tops.isdisjoint({*SPLITS, inside}) and all(len(names) > 2 for names in parts):
        base = tops.pop()
    folders = {names[bool(base)] for names in parts if len(names) > 1 + bool(base)}
    if inside.split('/')[0] in {'', *folders}:
        return posixpath.join(base, inside) if inside else base
    if split == 'train' and inside == 'train' and SPLITS.isdisjoint(name.lower() for name in folders):
        return base
    names = listed([shown(name) for name in sorted(folders)]) or 'none'
    remedy = f"set config.data.{split}_split to one of them, or to '' for all images"
    where = shown(os.path.join(path, base, inside))
    raise UserError(where, f'no such folder; the folders are {names}', remedy)


@functools.lru_cache(maxsize=1)  # the headers of a tar are everywhere in it; training and test share them
def _listed(path: str, modified: int) -> tuple[OpenFile, list[Entry]]:
    """An archive and all files in it. Raises UserError where it cannot be read without unpacking."""
    try:
        archive = OpenFile(path)
        start = archive.file.read(8)
        command = next((command for magic, command in COMPRESSED.items() if start.startswith(magic)), None)
        if command is not None:
            problem = 'is compressed as a whole, so that its images cannot be read in any order'
            remedy = f'uncompress it: `{command} -dc {shown(Path(path).name)} > uncompressed.tar`'
            raise UserError(shown(path), problem, remedy)
        # Not by is_zipfile: a tar whose last file is a zip passes for one.
        entries = _in_zip if start.startswith(b'PK') else _in_tar
        return archive, list(entries(archive.file, path))
    except DAMAGED as error:
        problem, remedy = (
            f'cannot be read as a zip or tar file ({reason(error)})',
            'copy or download it again',
        )
        raise UserError(shown(path), problem, remedy) from error


def _in_zip(file: BinaryIO, path: str) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                problem = f'{info.filename} is encrypted or compressed by a rare method'
                raise UserError(shown(path), problem, 'make a zip file with the usual method, deflate')
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            sizes = (info.compress_size, info.file_size)
            member = Member(info.header_offset, *sizes, info.compress_type, info.CRC)
            yield _normal(info.filename), None if is_link else member


def _normal(name: str) -> str:
    return posixpath.normpath(name).lstrip('/')


def _in_tar(file: BinaryIO, path: str) -> Iterator[Entry]:
    file.seek(0)
    with tarfile.open(path, 'r:', file) as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # of a million files it would keep a gigabyte
            if not info.isdir():
                is_file = info.isreg() and not info.issparse()
                member = Member(info.offset_data, info.size, info.size, IN_TAR, 0)
                yield _normal(info.name), member if is_file else None


def _read(archive: OpenFile, member: Member) -> bytes:
    if member.size > LARGEST:
        raise ValueError(f'it has {member.size:,} bytes')
    if member.method == IN_TAR:
        return archive.read(member.start, member.size)
    start = member.start + content_offset(archive.read(member.start, LOCAL_HEADER))
    data = archive.read(start, member.packed)
    if member.method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    if zlib.crc32(data) != member.checksum:
        raise ValueError('its checksum is wrong')
    return data
