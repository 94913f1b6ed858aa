"""What all sets of images have, and the sets that are arrays."""

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.sources.files import shown

# Changes when files are decoded to other pixels, so that features of the older pixels are not used.
TREATMENT = 'upright, on white'
PART = 128  # images: seconds of a CPU's work


class Part(NamedTuple):
    """The images start … stop − 1 of a set; `identity` differs where their files have changed."""

    start: int
    stop: int
    identity: str


class PartImages(NamedTuple):
    """The images of one part.

    Attributes:
        images: uint8 [N, H, W, C], C being 1 or 3.
        positions: [N], the index of each image in the part.
        unreadable: '<file>: <reason>' for each of the others.
    """

    images: np.ndarray
    positions: np.ndarray
    unreadable: Sequence[str] = ()


@dataclass(frozen=True)
class ImageSet:
    """Images that are read part by part, in order.

    Attributes:
        name: where the images are.
        labels: int [N]; None where there are none, or a source knows them.
    """

    name: str
    labels: np.ndarray | None
    parts: Sequence[Part]

    def __len__(self) -> int:
        return sum(part.stop - part.start for part in self.parts)

    def read(self, part: Part) -> PartImages:
        raise NotImplementedError

    def read_all(self) -> np.ndarray:
        """uint8 [N, H, W, C], all readable images."""
        return np.concatenate([self.read(part).images for part in self.parts])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C], the images of these indices; reads only the parts that hold them."""
        ends = np.cumsum([part.stop - part.start for part in self.parts])
        owners = np.searchsorted(ends, indices, side='right')
        images = {owner: self.read(self.parts[owner]).images for owner in np.unique(owners)}
        return np.stack([images[owner][i - ends[owner]] for i, owner in zip(indices, owners, strict=True)])

    def choose(self, chosen: np.ndarray) -> 'ImageSet':
        """The images where `chosen`, bool [N], is true, in their order."""
        indices = np.flatnonzero(chosen)
        labels = None if self.labels is None else self.labels[chosen]
        return ArrayImages(self.name, labels, self._parts_of(indices), self.take(indices))

    def _parts_of(self, indices: np.ndarray) -> Sequence[Part]:
        """Parts of the images of these indices; their identity depends on every part that they come from."""
        ends = np.cumsum([part.stop - part.start for part in self.parts])

        def identity(start: int, stop: int) -> str:
            rows = indices[start:stop]
            owners = np.unique(np.searchsorted(ends, rows, side='right'))
            made_of = ' '.join([repr(rows.tolist()), *(self.parts[owner].identity for owner in owners)])
            return f'{zlib.crc32(made_of.encode()):08x}'

        return even_parts(len(indices), identity)


@dataclass(frozen=True)
class ArrayImages(ImageSet):
    """Images in memory, or mapped into it."""

    images: np.ndarray

    def read(self, part: Part) -> PartImages:
        return PartImages(np.asarray(self.images[part.start : part.stop]), np.arange(part.stop - part.start))

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.images[indices])


def even_parts(num_images: int, identity: Callable[[int, int], str]) -> Sequence[Part]:
    """Parts of equal size; identity: (start, stop) → the identity of these images."""
    ranges = [(start, min(start + PART, num_images)) for start in range(0, num_images, PART)]
    return [Part(start, stop, identity(start, stop)) for start, stop in ranges]


def file_identity(path: str | Path) -> str:
    """Changes when a file is rewritten; its content is not read."""
    try:
        status = os.stat(path)
    except OSError:  # the file of an image that a table names may be missing: reading it reports that
        return f'{shown(Path(path).name)} missing'
    return f'{shown(Path(path).name)} {status.st_size} {status.st_mtime_ns}'
