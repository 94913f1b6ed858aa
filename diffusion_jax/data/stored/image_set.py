"""What all sets of stored images have."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from diffusion_jax.data.sources.files import shown

# Changes when images are turned into pixels in another way, so that features of older pixels are not used.
TREATMENT = 'upright, on white'
PART = 128  # images: seconds of a CPU's work


class Part(NamedTuple):
    """The images start … stop − 1 of a set; `identity` is another where they may not be what they were."""

    start: int
    stop: int
    identity: str


class Rows(NamedTuple):
    """Images of one part.

    Attributes:
        images: uint8 [N, H, W, C], C being 1 or 3.
        places: [N], which images of the part they are, the first being 0.
        left_out: '<file>: <reason>' for each of the others, which cannot be used.
    """

    images: np.ndarray
    places: np.ndarray
    left_out: Sequence[str] = ()


class ImageSet(Protocol):
    """Attributes:
    name: where the images are.
    labels: int [N]; None where they have none.
    """

    name: str
    labels: np.ndarray | None
    parts: Sequence[Part]

    def read(self, part: Part) -> Rows: ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C]: image i is the i-th of all parts together; none of them may be damaged."""
        ...


def even_parts(num_images: int, identity: Callable[[int, int], str]) -> Sequence[Part]:
    """Parts of equal size; identity: (start, stop) → what stands for these images."""
    ranges = [(start, min(start + PART, num_images)) for start in range(0, num_images, PART)]
    return [Part(start, stop, identity(start, stop)) for start, stop in ranges]


def file_identity(path: str | Path) -> str:
    """Changes when a file is written anew; gigabytes are not read for it."""
    status = os.stat(path)
    return f'{shown(Path(path).name)} {status.st_size} {status.st_mtime_ns}'
