"""Which files of a folder are images, and which are skipped."""

import functools
import os
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
    skipped: kind → number of files and folders of that kind, and the first of them.
    """

    root: str
    paths: list[str] = field(default_factory=list)
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)

    def skip(self, kind: str, path: str) -> None:
        count, example = self.skipped.get(kind, (0, path))
        self.skipped[kind] = (count + 1, example)

    def add(self, path: str, is_file: bool) -> bool:
        """Lists an image and skips any other file; returns whether it is one."""
        suffix = os.path.splitext(path)[1].lower()
        if not is_file:
            self.skip(SPECIAL, path)
        elif suffix not in suffixes():
            self.skip(f'with suffix {shown(suffix)}' if suffix else 'without a suffix', path)
        else:
            self.paths.append(path)
            return True
        return False

    def summary(self) -> str:
        """What was skipped, such as 'skipped 3 files and folders: 2 with suffix .txt (a/x.txt), 1 hidden
        (.git)'; '' where nothing was."""
        faults = (BROKEN, UNREADABLE)
        kinds = sorted(self.skipped.items(), key=lambda item: (item[0] not in faults, -item[1][0]))
        parts = [
            f'{count:,} {kind} ({shown(os.path.relpath(example, self.root))})'
            for kind, (count, example) in kinds[:MOST_KINDS]
        ] + ['…'] * (len(kinds) > MOST_KINDS)
        total = sum(count for count, _ in self.skipped.values())
        return f'skipped {total:,} files and folders: {", ".join(parts)}' if total else ''


def shown(path: str | os.PathLike[str]) -> str:
    """A path for messages and JSON: bytes that are not UTF-8 are escaped, b'caf\\xe9' as 'caf\\\\xe9'."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


def relative(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip(os.sep)  # os.path.relpath takes seconds for a million files


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of the raster formats that Pillow decodes, in lower case."""
    Image.init()
    # MPO, several JPEG images in one file, is opened as JPEG.
    formats = {*Image.OPEN, 'MPO'} - NOT_DECODED
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def list_images(root: str) -> Listing:
    """All images in and below a folder; hidden files and folders are skipped.

    Symbolic links are followed after everything else, in the order of their paths. Skipped are links to an
    image that is listed by its real path, to a folder that was visited, and to one that contains the link or
    `root`. Several links to one image elsewhere are several images: classes may share it.
    """
    listing, visited = Listing(root), set[str]()
    links = _visit(root, os.path.realpath(root), listing, visited)
    while links:
        links = [link for path in sorted(links) for link in _follow(path, listing, visited)]
    listing.paths.sort()
    return listing


def _visit(folder: str, real: str, listing: Listing, visited: set[str]) -> list[str]:
    """Lists the files in and below a folder, whose real path is `real`; returns the symbolic links.

    No file costs a system call of its own: a million files are listed in seconds.
    """
    if real in visited:
        listing.skip(LISTED, folder)
        return []
    visited.add(real)
    try:
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError:
        listing.skip(UNREADABLE, folder)
        return []
    links = []
    for entry in entries:
        if entry.name.startswith('.'):
            listing.skip(HIDDEN, entry.path)
        elif entry.is_symlink():
            links.append(entry.path)
        elif entry.is_dir():
            links += _visit(entry.path, os.path.join(real, entry.name), listing, visited)
        else:
            listing.add(entry.path, entry.is_file())
    return links


def _follow(link: str, listing: Listing, visited: set[str]) -> list[str]:
    """Lists the target of a symbolic link; returns the links in and below it."""
    real = os.path.realpath(link)
    above = (os.path.join(os.path.realpath(place), '') for place in (os.path.dirname(link), listing.root))
    folder, name = os.path.split(real)
    if not os.path.exists(real):
        listing.skip(BROKEN, link)
    elif os.path.isdir(real):
        if real in visited or not any(place.startswith(os.path.join(real, '')) for place in above):
            return _visit(link, real, listing, visited)
        listing.skip(ABOVE, link)
    elif folder in visited and is_image(name) and not name.startswith('.'):
        listing.skip(LISTED, link)
    else:
        listing.add(link, os.path.isfile(real))
    return []


def is_image(path: str) -> bool:
    """Whether a file has the suffix of an image."""
    return os.path.splitext(path)[1].lower() in suffixes()
