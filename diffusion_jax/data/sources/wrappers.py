"""Sources for training: unreadable images are replaced, and small images are decoded once."""

import itertools
import logging
import threading
from typing import Any

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import ArraySource, Source
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.data.transforms import center_crop
from diffusion_jax.errors import UserError

logger = logging.getLogger(__name__)

CACHE_BYTES = 500_000_000


class _Wrapper(Source):
    def __init__(self, source: Source, config: DataConfig):
        self.class_names, self.identity, self.skipped = source.class_names, source.identity, source.skipped
        self._source, self._config = source, config

    def __len__(self) -> int:
        return len(self._source)

    def name_of(self, index: int) -> str:
        return self._source.name_of(index)


class SkippingSource(_Wrapper):
    """Replaces each unreadable image by the next readable one, in the source's order.

    The replacement depends on the index alone, so it is the same on any host and in any thread. Each
    unreadable image is logged once.

    Attributes:
        unreadable: the indices of the unreadable images found so far.
    """

    def __init__(self, source: Source, config: DataConfig):
        super().__init__(source, config)
        self.unreadable: set[int] = set()
        self._lock = threading.Lock()

    def picture(self, index: int) -> dict[str, Any]:
        """See Source. Raises UserError for more than `max_skipped` unreadable images, or no readable one."""
        for candidate in itertools.chain(range(index, len(self)), range(index)):
            if candidate not in self.unreadable:
                try:
                    return self._source.picture(candidate)
                except UnreadableImage as error:
                    self._skip(candidate, error)
            if len(self.unreadable) > self._config.max_skipped:
                found = f'{len(self.unreadable)} unreadable images so far, such as {self.name_of(candidate)}'
                problem = f'got {self._config.max_skipped}, but {found}'
                remedy = 'repair the files or set a larger number'
                raise UserError('config.data.max_skipped', problem, remedy)
        raise UserError(self.name_of(index), f'cannot be read, nor can the other {len(self) - 1:,} images')

    def _skip(self, index: int, error: UnreadableImage) -> None:
        with self._lock:
            if index not in self.unreadable:
                self.unreadable.add(index)
                count, limit = len(self.unreadable), self._config.max_skipped
                logger.warning('%s; skipped, %d of at most %d images', error.description, count, limit)


class CachedSource(_Wrapper):
    """Crops images as `center_crop` does and keeps them in memory: to crop them again changes nothing.

    A camera photo takes 0.25 s to decode and crop.
    """

    def __init__(self, source: Source, config: DataConfig):
        super().__init__(source, config)
        self._records: dict[int, dict[str, Any]] = {}

    def picture(self, index: int) -> dict[str, Any]:
        if index not in self._records:
            record = self._source.picture(index)
            cropped = np.ascontiguousarray(center_crop(record['image'], self._config.image_size))
            self._records[index] = record | {'image': cropped}
        return self._records[index]


def skipping(source: Source, config: DataConfig) -> Source:
    """The source that treats unreadable images according to `config.on_error`."""
    return source if config.on_error == 'stop' else SkippingSource(source, config)


def cached(source: Source, config: DataConfig, max_bytes: int = CACHE_BYTES) -> Source:
    """The source for centre crops, in memory where all crops fit into `max_bytes`."""
    size = len(source) * np.prod(config.image_size) * config.image_channels
    return source if isinstance(source, ArraySource) or size > max_bytes else CachedSource(source, config)


def is_readable(source: Source, indices: np.ndarray) -> np.ndarray:
    """bool [N], after these images were read: whether each was its own, not a replacement."""
    return ~np.isin(indices, list(getattr(source, 'unreadable', ())))
