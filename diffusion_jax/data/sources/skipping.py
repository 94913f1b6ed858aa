"""Unreadable images: stop at them, or replace them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import Source, name_of
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.errors import UserError

logger = logging.getLogger(__name__)


class SkippingSource:
    """A source that replaces each unreadable image by the next readable one, in the source's order.

    The replacement depends on the index alone, so it is the same on any host and in any thread. Each
    unreadable image is logged once.

    Attributes:
        unreadable: the indices of the unreadable images found so far.
    """

    def __init__(self, source: Source, max_skipped: int):
        self.class_names, self.identity = source.class_names, source.identity
        self.unreadable: set[int] = set()
        self._source, self._max_skipped = source, max_skipped
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See Source. Raises UserError for more than `max_skipped` unreadable images, or no readable one."""
        for place in itertools.chain(range(index, len(self)), range(index)):
            record = self._read(place)
            if record is not None:
                return record
        raise UserError(
            f'none of the {len(self):,} images can be read; {name_of(self, index)} is one of them'
        )

    def name_of(self, index: int) -> str:
        return name_of(self._source, index)

    def _read(self, index: int) -> dict[str, Any] | None:
        if index not in self.unreadable:
            try:
                return self._source[index]
            except UnreadableImage as error:
                self._note(index, error)
        if len(self.unreadable) > self._max_skipped:
            raise UserError(
                f'{len(self.unreadable):,} images cannot be read, {name_of(self, index)} among them; '
                f'config.data.max_skipped is {self._max_skipped}; repair the files or set a larger number'
            )
        return None

    def _note(self, index: int, error: UnreadableImage) -> None:
        with self._lock:
            if index not in self.unreadable:
                self.unreadable.add(index)
                count, limit = len(self.unreadable), self._max_skipped
                logger.warning('%s; skipped, %d of at most %d images', error, count, limit)


def skipping(source: Source, config: DataConfig) -> Source:
    """The source as `config.on_error` treats images that cannot be read."""
    in_memory = hasattr(source, 'gather')
    return source if in_memory or config.on_error == 'stop' else SkippingSource(source, config.max_skipped)


def is_readable(source: Source, indices: np.ndarray) -> np.ndarray:
    """bool [N], after these images were read: whether each was its own, not a replacement."""
    return ~np.isin(indices, list(getattr(source, 'unreadable', ())))


@contextlib.contextmanager
def remedy_named() -> Iterator[None]:
    """Adds to the error of an unreadable image what to do."""
    try:
        yield
    except UnreadableImage as error:
        raise UserError(
            f'{error}; repair the file or set config.data.on_error=skip, and give the same command again'
        ) from error
