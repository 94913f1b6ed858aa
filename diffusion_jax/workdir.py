"""A folder of results: written whole or not at all, by one run at a time, and saying what made it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffusion_jax.errors import UserError, reason

LOCK_FILE = '.lock'
STAMP_FILE = 'stamp.json'


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file for writing that takes its name only when all of it is on disk; missing folders are made.

    After an error, or when the process is killed, whatever had that name before is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: str | Path) -> None:
    """UserError unless a file can be written there; asked before hours of work that would end in it."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _not_writable(path, path.parent, error, f'{path} needs a folder there') from error
    if path.is_dir():
        raise UserError(f'{path}: is a folder; name a file')


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes the whole file or nothing."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: str | Path, value: Any) -> None:
    """Writes dicts, sequences, dataclasses, paths and numpy scalars as JSON that a person can read.

    Raises:
        UserError: a number is not finite, which JSON cannot express; nothing is written.
    """
    value = normalise(value)
    for wrong in _not_finite(value):
        raise UserError(f'{path}: not written, since {wrong}; every number of it must be finite')
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + '\n').encode())


def _not_finite(value: Any, key: str = '') -> Iterator[str]:
    """The numbers in a normalised value that are not finite, each such as 'protocol.scale is nan'."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _not_finite(item, f'{key}.{name}'.lstrip('.'))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_finite(item, f'{key}[{number}]')
    elif isinstance(value, float) and not math.isfinite(value):
        yield f'{key} is {value}'


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A file of `write_json` that holds a dict. UserError, which says `remedy`, where it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read ({reason(error)}); {remedy}') from error
    if not isinstance(value, dict):
        raise UserError(f'{path}: damaged (it holds {type(value).__name__}, not settings); {remedy}')
    return value


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes arrays by name, uncompressed."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def _not_writable(path: str | Path, folder: str | Path, error: OSError, needs: str) -> UserError:
    """Why nothing can be written to `folder`: mostly because a file has the name of one of its folders."""
    folder = Path(folder)
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            return UserError(f'{place}: is a file; {needs}')
    return UserError(f'{path}: cannot be written ({reason(error)}); choose another place')


@contextlib.contextmanager
def lock(directory: str | Path) -> Iterator[None]:
    """Holds a folder for this process; it is made if it does not exist.

    The operating system lets go of the lock when the process ends, however it ends.

    Raises:
        UserError: the folder cannot be written, or another process holds it.
    """
    path = Path(directory) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, 'a+')
    except OSError as error:
        raise _not_writable(directory, directory, error, '--workdir needs a folder') from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or 'another process'
            raise UserError(
                f'{directory}: in use by {holder}; wait until it ends, or choose another folder'
            ) from error
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield


def write_stamp(directory: str | Path, stamp: Mapping[str, Any]) -> None:
    """Writes what a folder's content rests on."""
    write_json(Path(directory) / STAMP_FILE, stamp)


def read_stamp(directory: str | Path) -> dict[str, Any] | None:
    """The stamp of a folder; None where it has none yet."""
    path = Path(directory) / STAMP_FILE
    if not path.exists():
        return None
    return read_json(path, 'restore it, or choose another folder')


def normalise(value: Any) -> Any:
    """A value as it would come back from JSON."""
    if dataclasses.is_dataclass(value):
        return normalise(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): normalise(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalise(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return value
