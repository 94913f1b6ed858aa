"""Some of the images of a set."""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_jax.data.sources import Source
from diffusion_jax.data.stored.archive import ArrayImages
from diffusion_jax.data.stored.image_set import ImageSet, even_parts
from diffusion_jax.data.stored.source import SourceImages


@dataclass(frozen=True)
class ChosenSource:
    """Those images of a source that the indices name."""

    source: Source
    indices: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def identity(self) -> str:
        return f'{self.source.identity} {zlib.crc32(self.indices.tobytes()):08x}'

    @property
    def skipped(self) -> str:
        return getattr(self.source, 'skipped', '')

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]


def choose(images: ImageSet, chosen: np.ndarray) -> ImageSet:
    """The images of a set where bool [N] is true, in its order. Image files are not read here."""
    indices = np.flatnonzero(chosen)
    ends = np.cumsum([part.stop - part.start for part in images.parts])

    def identity(start: int, stop: int) -> str:
        """That of the images and of all parts that they lie in."""
        rows = indices[start:stop]
        parts = np.unique(np.searchsorted(ends, rows, side='right'))
        made_of = ' '.join([repr(rows.tolist()), *(images.parts[part].identity for part in parts)])
        return f'{zlib.crc32(made_of.encode()):08x}'

    parts = even_parts(len(indices), identity)
    labels = None if images.labels is None else images.labels[chosen]
    if isinstance(images, SourceImages):
        source = ChosenSource(images.source, indices)
        return dataclasses.replace(images, source=source, labels=labels, parts=parts)
    return ArrayImages(images.name, images.take(indices), labels, parts)
