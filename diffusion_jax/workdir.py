"""A folder of results: written whole or not at all, by one run at a time, and saying what made it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import socket
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffusion_jax.errors import UserError

LOCK_FILE = '.lock'
STAMP_FILE = 'stamp.json'
NOT_SET = '(not set)'


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
        raise UserError(f'{path}: cannot be written ({error.strerror}); choose another place') from error
    if path.is_dir():
        raise UserError(f'{path}: is a folder; name a file')


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes the whole file or nothing."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: str | Path, value: Any) -> None:
    """Writes dicts, sequences, dataclasses, paths and numpy scalars as JSON that a person can read."""
    write_bytes(path, (json.dumps(normalise(value), indent=2) + '\n').encode())


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes arrays by name, uncompressed."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)


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
        reason = error.strerror or error
        raise UserError(f'{directory}: cannot be written ({reason}); choose another folder') from error
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
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f'{path}: is no stamp ({error}); remove the folder or choose another') from error


def check_stamp(directory: str | Path, stamp: Mapping[str, Any]) -> None:
    """Compares what a folder's content rests on, if it has a stamp yet.

    Raises:
        UserError: the folder was made with other settings; the message names each of them.
    """
    difference = stamp_difference(read_stamp(directory) or stamp, stamp)
    if difference:
        changes = [f'{key}: had {had}, now {now}' for key, (had, now) in difference.items()]
        changes = ', '.join(changes[:8]) + (f' and {len(changes) - 8} more' if len(changes) > 8 else '')
        raise UserError(
            f'{directory}: made with other settings ({changes}); restore them or choose another folder'
        )


def results_directory(base: Path, section: str, stamp: Mapping[str, Any]) -> Path:
    """`base` for the first results of a kind; for any other ones a folder in it that is named after what
    differs from the first, such as samples/scale=2.0: of the config's section, or else of anything."""
    first = read_stamp(base)
    if first is None:
        return base
    difference = stamp_difference(first, stamp)
    prefix = f'{section}.'
    settings = {key: new for key, (_, new) in difference.items() if key.startswith(prefix)}
    settings = settings or {key: new for key, (_, new) in difference.items()}
    text = ','.join(f'{key.removeprefix(prefix)}={value}' for key, value in settings.items())
    text = re.sub(r'[^\w=.,-]+', '-', text.replace('[', '').replace(']', '').replace(', ', '+'))
    return base / (text if len(text) <= 80 else f'{text[:70]}-{zlib.crc32(text.encode()):08x}')


def stamp_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ: dotted key → (old value, new value), NOT_SET where one has no such key."""
    old, new = _flatten(normalise(old)), _flatten(normalise(new))
    pairs = {key: (old.get(key, NOT_SET), new.get(key, NOT_SET)) for key in old | new}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


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
    if isinstance(value, str) and '/' in value and '://' not in value:
        return str(Path(value))  # older stamps hold paths as they were typed: images/
    return value


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat
