"""LSUN's layout: an LMDB whose values are image files (WebP, JPEG, …) and whose keys are any bytes."""

import functools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import EncodedSource
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.labels import by_path
from diffusion_jax.data.sources.splits import check_undivided
from diffusion_jax.errors import UserError, reason

DATA_FILE = 'data.mdb'


@dataclass(frozen=True)
class LmdbSource(EncodedSource):
    path: str
    keys: Sequence[bytes]  # sorted, as LMDB has them

    @property
    def files(self) -> Sequence[str]:  # type: ignore[override]
        return (os.path.join(self.path, DATA_FILE),)

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        return f'{zlib.crc32(repr(self.keys).encode()):08x}'

    def encoded(self, index: int) -> bytes:
        with _environment(os.path.realpath(self.path)).begin() as transaction:
            data = transaction.get(self.keys[index])
        if data is None:
            raise ValueError('it is no longer in the database')
        return data

    def name_of(self, index: int) -> str:
        return shown(_named(self.path, self.keys[index]))


def lmdb_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None) -> LmdbSource:
    """All images of an LMDB, in the order of their keys.

    LSUN's have no labels. Keys that are paths, such as cat/1.webp or cat_1.webp, give classes as files do.
    """
    path = check_undivided(config, split, 'an LMDB')
    if not is_lmdb(path):
        problem = f'is no LMDB: it has no {DATA_FILE}'
        raise UserError(shown(path), problem, 'set config.data.path to its folder')
    with _environment(os.path.realpath(path)).begin() as transaction:
        keys = list(transaction.cursor().iternext(keys=True, values=False))
    if not keys:
        raise UserError(shown(path), 'contains no images', 'it is an empty LMDB')
    names = [_named(path, key) for key in keys]
    labels, class_names = by_path(names, path, config, split, class_names)
    return LmdbSource(labels, class_names, config.image_channels, path, keys)


def is_lmdb(path: str) -> bool:
    return os.path.isfile(os.path.join(path, DATA_FILE))


def _named(path: str, key: bytes) -> str:
    return os.path.join(path, os.fsdecode(key))


@functools.cache  # a process must not open one twice; threads share it
def _environment(path: str) -> Any:
    """An open LMDB. Raises UserError where it cannot be read."""
    try:
        import lmdb
    except ImportError as error:
        remedy = "pip install 'diffusion_jax[lmdb]'"
        raise UserError(shown(path), 'is an LMDB; to read it, the package lmdb is needed', remedy) from error
    try:
        # Without a lock file: the folder may be read-only. Images are read in random order: no read-ahead.
        environment = lmdb.open(path, readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise UserError(shown(path), f'cannot be read as an LMDB ({reason(error)})') from error
    needed = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
    existing = os.path.getsize(os.path.join(path, DATA_FILE))
    if existing < needed:  # to read beyond its end would kill the process
        problem = f'{DATA_FILE} is truncated: it has {existing:,} of {needed:,} bytes'
        raise UserError(shown(path), problem, 'copy or download it again')
    return environment
