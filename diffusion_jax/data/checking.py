"""Reads images before work that would meet an unreadable one, or a label that is no class, hours later."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import os
from collections.abc import Callable

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import load_batch
from diffusion_jax.data.sources import Source
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress

logger = logging.getLogger(__name__)

# Up to these limits all files are always checked; this takes seconds.
FEW_FILES, FEW_BYTES = 1_000, 200_000_000
THREADS = 8
CHUNK = 1_000  # images between two looks at `stop`
MOST_NAMES = 3


def check_images(source: Source, config: DataConfig, split: str, stop: Callable[[], bool]) -> None:
    """Reads every image if they are few files or `config.check_files` is set. Otherwise reads only the first,
    to check its label.

    With on_error='skip' unreadable images are logged, unless they are more than `max_skipped`.

    Raises:
        UserError: images cannot be read, and the message has their number and the first of them; or a label
            is no class.
        Interrupted: because `stop` said so.
    """
    if not config.check_files and not _is_small(source):
        _error_of(source, 0)
        return
    unreadable = _unreadable(source, f'checking the {split} images', stop, show=config.check_files)
    if not unreadable:
        return
    more = f'; and {len(unreadable) - MOST_NAMES:,} more' if len(unreadable) > MOST_NAMES else ''
    found = (
        f'{len(unreadable):,} of the {len(source):,} {split} images cannot be read: '
        f'{"; ".join(unreadable[:MOST_NAMES])}{more}'
    )
    if config.on_error == 'stop':
        raise UserError(
            f'{found}; repair these files, remove them if no training has begun, or set '
            'config.data.on_error=skip'
        )
    if len(unreadable) > config.max_skipped:
        raise UserError(
            f'{found}; config.data.max_skipped is {config.max_skipped}; repair the files or set a larger '
            'number'
        )
    logger.warning('%s; they are skipped', found)


def _is_small(source: Source) -> bool:
    paths = getattr(source, 'paths', None)
    if paths is None or len(paths) > FEW_FILES:
        return False
    try:
        return sum(map(os.path.getsize, paths)) <= FEW_BYTES
    except OSError:  # a file is gone since it was listed: reading it says so
        return True


def _unreadable(source: Source, title: str, stop: Callable[[], bool], *, show: bool) -> list[str]:
    """What is wrong with each image that cannot be read."""
    error_of = functools.partial(_error_of, source)
    found = []
    shown = Progress(title, len(source)) if show else contextlib.nullcontext()
    with shown as progress, concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(source), CHUNK):
            if stop():
                raise Interrupted(f'{title}: stopped after {first:,} of {len(source):,}')
            chunk = range(first, min(first + CHUNK, len(source)))
            found += [error for error in pool.map(error_of, chunk) if error is not None]
            if progress is not None:
                progress.update(chunk.stop)
    return found


def _error_of(source: Source, index: int) -> str | None:
    """Why an image cannot be read, if so. UserError where its label is no class."""
    try:
        load_batch(source, np.array([index]))
    except UnreadableImage as error:
        return str(error)
    return None
