"""Reads images before work that would meet an unreadable one hours later."""

import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable

from diffusion_jax.data.config import DataConfig
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
        UserError: images cannot be read, or the label of one is no class.
        Interrupted: `stop` returned True.
    """
    title, total = f'checking the {split} images', len(source)
    count = total if config.check_files or _are_few(source) else 1
    unreadable = []

    def check(index: int) -> None:
        try:
            source[index]
        except UnreadableImage as error:
            unreadable.append(error.description)

    progress = Progress(title, count) if config.check_files else None
    with progress or contextlib.nullcontext(), concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, count, CHUNK):
            if stop():
                raise Interrupted(f'{title}: stopped after {first:,} of {count:,}')
            chunk = range(first, min(first + CHUNK, count))
            list(pool.map(check, chunk))
            if progress is not None:
                progress.update(chunk.stop)
    if not unreadable:
        return
    shown = '; '.join(sorted(unreadable)[:MOST_NAMES]) + '; …' * (len(unreadable) > MOST_NAMES)
    problem = f'{len(unreadable):,} of the {total:,} {split} images cannot be read: {shown}'
    if config.on_error == 'stop':
        remedy = 'repair the files, remove them before a training begins, or set config.data.on_error=skip'
        raise UserError('config.data', problem, remedy)
    if len(unreadable) > config.max_skipped:
        remedy = 'repair the files or set a larger number'
        raise UserError('config.data.max_skipped', f'got {config.max_skipped}, but {problem}', remedy)
    logger.warning('%s; they are skipped', problem)


def _are_few(source: Source) -> bool:
    files = source.paths or source.files
    if not files or len(source) > FEW_FILES:
        return False
    try:
        return sum(map(os.path.getsize, files)) <= FEW_BYTES
    except OSError:  # a file was removed since it was listed: reading it reports that
        return True
