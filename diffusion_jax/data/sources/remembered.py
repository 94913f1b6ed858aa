"""Images that are decoded once: few of them, cropped to a small size, fit in memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import Source, name_of
from diffusion_jax.data.transforms import center_crop
from diffusion_jax.images import Size

LARGEST = 500_000_000  # bytes of all cropped images


@dataclass(frozen=True)
class RememberedSource:
    """The images of a source as `center_crop` makes them, kept in memory from their first use.

    A camera photo takes 0.25 s to decode and crop. To crop it again changes nothing.
    """

    source: Source
    size: Size
    records: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def identity(self) -> str:
        return self.source.identity

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in self.records:
            record = self.source[index]
            cropped = np.ascontiguousarray(center_crop(record['image'], self.size))
            self.records[index] = record | {'image': cropped}
        return self.records[index]

    def name_of(self, index: int) -> str:
        return name_of(self.source, index)


def remembered(source: Source, config: DataConfig) -> Source:
    """The source for centre crops; with a memory where its images are files and their crops fit in it."""
    size = len(source) * np.prod(config.image_size) * config.image_channels
    return (
        source if hasattr(source, 'gather') or size > LARGEST else RememberedSource(source, config.image_size)
    )
