"""Reads images before work that would meet an unreadable one, or a label that is no class, hours later."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import load_batch
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress

logger = logging.getLogger(__name__)

# Up to these limits all files are always checked; this takes seconds.
FEW_FILES, FEW_BYTES = 1_000, 200_000_000
THREADS = 8
CHUNK = 1_000  # images between two checks of `stop`
MOST_NAMES = 3


def check_images(source: Source, config: DataConfig, split: str, stop: Callable[[], bool]) -> None:
    """Reads every image if they are few files or `config.check_files` is set, otherwise the first one.

    With on_error='skip' unreadable images are logged, unless they are more than `max_skipped`.

    Raises:
        UserError: images cannot be read, or a label is no class.
        Interrupted: `stop` returned True.
    """
    if not config.check_files and not _is_small(source):
        _problem_of(source, 0)  # raises where its label is no class
        return
    unreadable = _unreadable(source, f'checking the {split} images', stop, show=config.check_files)
    if not unreadable:
        return
    more = f'; and {len(unreadable) - MOST_NAMES:,} more' if len(unreadable) > MOST_NAMES else ''
    problem = (
        f'{len(unreadable):,} of the {len(source):,} {split} images cannot be read: '
        f'{"; ".join(unreadable[:MOST_NAMES])}{more}'
    )
    if config.on_error == 'stop':
        remedy = 'repair the files, remove them before a training begins, or set config.data.on_error=skip'
        raise UserError('config.data', problem, remedy)
    if len(unreadable) > config.max_skipped:
        remedy = 'repair the files or set a larger number'
        raise UserError('config.data.max_skipped', f'{config.max_skipped}, but {problem}', remedy)
    logger.warning('%s; they are skipped', problem)


def _is_small(source: Source) -> bool:
    if not 0 < len(source.paths) <= FEW_FILES:
        return False
    try:
        return sum(map(os.path.getsize, source.paths)) <= FEW_BYTES
    except OSError:  # a file was removed since it was listed: reading it reports that
        return True


def _unreadable(source: Source, title: str, stop: Callable[[], bool], *, show: bool) -> list[str]:
    """Why each unreadable image cannot be read."""
    unreadable = []
    progress = Progress(title, len(source)) if show else None
    with progress or contextlib.nullcontext(), concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(source), CHUNK):
            if stop():
                raise Interrupted(f'{title}: stopped after {first:,} of {len(source):,}')
            chunk = range(first, min(first + CHUNK, len(source)))
            unreadable += filter(None, pool.map(lambda index: _problem_of(source, index), chunk))
            if progress is not None:
                progress.update(chunk.stop)
    return unreadable


def _problem_of(source: Source, index: int) -> str | None:
    """Why an image cannot be read, if so. Raises UserError where its label is no class."""
    try:
        load_batch(source, np.array([index]))
    except UnreadableImage as error:
        return error.description
    return None
