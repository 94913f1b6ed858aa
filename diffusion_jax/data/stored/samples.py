"""Samples in shards, as the stage `sample` writes them; more may come while they are looked at."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_jax import shards
from diffusion_jax.data.stored.image_set import Part, Rows, file_identity
from diffusion_jax.errors import UserError
from diffusion_jax.shards import SHARDS


@dataclass(frozen=True)
class SampleImages:
    """The rows of all shards; each shard is a part."""

    name: str
    directory: Path
    parts: Sequence[Part]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return np.concatenate([self._array(part, 'arr_1') for part in self.parts])

    def read(self, part: Part) -> Rows:
        return Rows(self._array(part, 'arr_0'), np.arange(part.stop - part.start))

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See ImageSet; of shards that have none of these images nothing is read."""
        images: list[np.ndarray | None] = [None] * len(indices)
        first = 0
        for part in self.parts:
            count = part.stop - part.start
            wanted = np.flatnonzero((indices >= first) & (indices < first + count))
            if len(wanted):
                rows = self._array(part, 'arr_0')
                for place in wanted:
                    images[place] = rows[indices[place] - first]
            first += count
        return np.stack(images)

    def _array(self, part: Part, name: str) -> np.ndarray:
        return shards.read(shards.shard(self.directory, part.start, part.stop), name)[name]


def shard_folder(path: Path) -> Path | None:
    """The folder of shards that a folder is or has."""
    return next((folder for folder in (path / SHARDS, path) if shards.found(folder)), None)


def open_samples(path: Path) -> SampleImages:
    """The samples that are there by now. UserError where there are none."""
    directory = shard_folder(path)
    if directory is None:
        raise UserError(f'{path}: no samples there; run the stage sample with this config first')
    parts = [Part(found.start, found.stop, file_identity(found.path)) for found in shards.found(directory)]
    return SampleImages(str(path), directory, parts)
