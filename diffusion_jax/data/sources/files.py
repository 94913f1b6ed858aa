"""Which files of a folder are images, and which are skipped."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

# What Pillow opens but cannot decode without other programs, or at all.
NOT_DECODED = frozenset({'BUFR', 'EPS', 'GRIB', 'HDF5', 'IPTC', 'MPEG', 'WMF'})
MOST_KINDS = 8

HIDDEN = 'hidden'
LISTED = 'link to an image or folder that is listed already'
ABOVE = 'link to a folder above it'
BROKEN = 'broken link'
UNREADABLE = 'unreadable folder'
SPECIAL = 'no regular file'


@dataclass
class Listing:
    """Attributes:
    root: the folder.
    paths: of all images in and below it, sorted.
    skipped: kind → how many files and folders of that kind were skipped, and the first of them.
    """

    root: str
    paths: list[str] = field(default_factory=list)
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)

    def skip(self, kind: str, path: str) -> None:
        count, example = self.skipped.get(kind, (0, path))
        self.skipped[kind] = (count + 1, example)

    def summary(self) -> str:
        """What was skipped, such as 'skipped 3 files and folders: 2 with suffix .txt (a/x.txt), 1 hidden
        (.git)'; '' where nothing was."""
        if not self.skipped:
            return ''
        faults_first = {BROKEN: -2, UNREADABLE: -1}
        kinds = sorted(self.skipped.items(), key=lambda item: (faults_first.get(item[0], 0), -item[1][0]))
        parts = [
            f'{count:,} {kind} ({shown(os.path.relpath(example, self.root))})'
            for kind, (count, example) in kinds[:MOST_KINDS]
        ]
        rest = sum(count for _, (count, _) in kinds[MOST_KINDS:])
        parts += [f'{rest:,} of other kinds'] if rest else []
        total = sum(count for count, _ in self.skipped.values())
        return f'skipped {total:,} files and folders: {", ".join(parts)}'


def shown(path: str | os.PathLike[str]) -> str:
    """A path for messages and JSON: bytes that are not UTF-8 are escaped, b'caf\\xe9' as 'caf\\\\xe9'."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of the raster formats that Pillow decodes, in lower case."""
    Image.init()
    # MPO, several JPEG images in one file, is opened as JPEG.
    formats = {*Image.OPEN, 'MPO'} - NOT_DECODED
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes()


def list_images(root: str) -> Listing:
    """All images in and below a folder; hidden files and folders are skipped.

    Symbolic links are followed after everything else, in the order of their paths. Skipped are links to an
    image that is listed by its real path, to a folder that was visited, and to one that contains the link or
    `root`. Several links to one image elsewhere are several images: classes may share it.
    """
    listing = Listing(root)
    walk = _Walk(listing)
    links = list(walk.visit(root))
    while links:
        links = [link for path in sorted(links) for link in walk.follow(path)]
    listing.paths.sort()
    return listing


class _Walk:
    """One pass through a folder. Files and folders are told apart by device and inode.

    Ordinary files cost no `stat`: a million files are listed in seconds.
    """

    def __init__(self, listing: Listing):
        self._listing = listing
        self._images: set[tuple[int, int]] = set()
        self._folders: set[tuple[int, int]] = set()

    def visit(self, folder: str) -> Iterator[str]:
        """Lists what is really in and below a folder; yields the symbolic links there."""
        pending = [folder]
        while pending:
            folder = pending.pop()
            try:
                status = os.stat(folder)
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                self._listing.skip(UNREADABLE, folder)
                continue
            if (status.st_dev, status.st_ino) in self._folders:
                self._listing.skip(LISTED, folder)
                continue
            self._folders.add((status.st_dev, status.st_ino))
            below = []
            for entry in entries:
                if entry.name.startswith('.'):
                    self._listing.skip(HIDDEN, entry.path)
                elif entry.is_symlink():
                    yield entry.path
                elif entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    self._add(entry, status.st_dev)
            pending += reversed(below)  # the first by name is visited next

    def follow(self, path: str) -> Iterator[str]:
        """Lists what a symbolic link leads to; yields the links there."""
        try:
            status = os.stat(path)
        except OSError:
            self._listing.skip(BROKEN, path)
            return
        key = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            if key in self._folders:
                self._listing.skip(LISTED, path)
            elif _leads_up(path, self._listing.root):
                self._listing.skip(ABOVE, path)
            else:
                yield from self.visit(path)
        elif not stat.S_ISREG(status.st_mode):
            self._listing.skip(SPECIAL, path)
        elif not is_image(path):
            self._listing.skip(_suffix_kind(path), path)
        elif key in self._images:
            self._listing.skip(LISTED, path)
        else:
            self._listing.paths.append(path)

    def _add(self, entry: os.DirEntry[str], device: int) -> None:
        if not entry.is_file(follow_symlinks=False):
            self._listing.skip(SPECIAL, entry.path)
        elif not is_image(entry.name):
            self._listing.skip(_suffix_kind(entry.name), entry.path)
        else:
            self._images.add((device, entry.inode()))
            self._listing.paths.append(entry.path)


def _leads_up(link: str, root: str) -> bool:
    """Whether a link's target contains the link or the root."""
    target = os.path.join(os.path.realpath(link), '')
    places = (os.path.dirname(link), root)
    return any(os.path.join(os.path.realpath(place), '').startswith(target) for place in places)


def _suffix_kind(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    return f'with suffix {shown(suffix)}' if suffix else 'without a suffix'
