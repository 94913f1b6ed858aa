"""Files of results: written completely or not at all, by one run at a time, with a stamp of their origin."""

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

import jax
import numpy as np

from diffusion_jax.errors import UserError, reason

LOCK_FILE = '.lock'
STAMP_FILE = 'stamp.json'


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file for writing that gets its name when it is completely on disk; missing folders are made.

    After an error, or when the process is killed, the previous file of that name still exists.
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


def check_writable(path: str | Path) -> None:
    """Raises UserError unless a file can be written there; called before hours of work that end in it."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _not_writable(path, error) from error
    if path.is_dir():
        raise UserError(str(path), 'is a folder', 'name a file')


def _not_writable(path: str | Path, error: OSError) -> UserError:
    return UserError(str(path), f'cannot be written ({reason(error)})', 'choose another path')


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file atomically."""
    with atomic_file(path) as file:
        file.write(data)


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes arrays by name, uncompressed, atomically."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle


def write_json(path: str | Path, value: Any) -> None:
    """Writes what `normalise` accepts as indented JSON, atomically. UserError if a number is not finite."""
    value = normalise(value)
    for key, number in jax.tree_util.tree_leaves_with_path(value):
        if isinstance(number, float) and not math.isfinite(number):
            name = jax.tree_util.keystr(key, simple=True, separator='.')
            raise UserError(str(path), f'cannot be written, since {name} is {number}')
    write_bytes(path, (json.dumps(value, indent=2) + '\n').encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A file of `write_json` that holds a dict. Raises UserError with `remedy` where it does not."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(str(path), f'cannot be read ({reason(error)})', remedy) from error
    if not isinstance(value, dict):
        raise UserError(str(path), f'is damaged: it holds {type(value).__name__}, not settings', remedy)
    return value


def normalise(value: Any) -> Any:
    """A nested value of dicts, sequences, dataclasses, arrays and paths as it comes back from JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else os.fspath(value)

    return json.loads(json.dumps(value, default=plain))


@contextlib.contextmanager
def lock(directory: str | Path) -> Iterator[None]:
    """Holds a folder, which is made if needed, until the block or the process ends, however it ends.

    Raises UserError if the folder cannot be written, or another process holds it.
    """
    path = Path(directory) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, 'a+')
    except OSError as error:
        raise _not_writable(directory, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or 'another process'
            remedy = 'wait until it ends, or choose another folder'
            raise UserError(str(directory), f'is in use by {holder}', remedy) from error
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield


def write_stamp(directory: str | Path, stamp: Mapping[str, Any]) -> None:
    """Records what a folder's content depends on."""
    write_json(Path(directory) / STAMP_FILE, stamp)


def read_stamp(directory: str | Path) -> dict[str, Any] | None:
    """The stamp of a folder; None where it has none yet."""
    path = Path(directory) / STAMP_FILE
    return read_json(path, 'restore it, or choose another folder') if path.exists() else None
