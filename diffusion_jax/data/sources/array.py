"""Images that fit in memory."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArraySource:
    """images: uint8 [N, H, W, C]; labels: int32 [N]."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    @functools.cached_property
    def identity(self) -> str:
        return f'{zlib.crc32(self.images):08x}'

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'image': self.images[index], 'label': int(self.labels[index])}

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Many records at once: {'image': uint8 [B, H, W, C], 'label': int32 [B]}."""
        return {'image': self.images[indices], 'label': self.labels[indices]}
