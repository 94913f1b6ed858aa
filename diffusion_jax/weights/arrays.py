"""Arrays and texts in one safetensors file that notices damage: what every file of ours with weights is.

The format itself has no checksums: what a disk damages would come back unnoticed. So the metadata, texts all
of them, hold more than the `format` and what the caller gives: the `checksums` of the arrays as JSON, and the
`digest`, a checksum of the metadata.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diffusion_jax.checks import not_finite
from diffusion_jax.errors import UserError, reason
from diffusion_jax.workdir import atomic_file


class Header(NamedTuple):
    """All but the arrays.

    Attributes:
        metadata: what the writer gave.
        checksums: the CRC-32 of each array.
        digest: eight hex digits, another for any other content of the file.
    """

    metadata: dict[str, str]
    checksums: dict[str, int]
    digest: str


def save_arrays(
    path: str | Path, format: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes the whole file or nothing, all arrays as float32. Those that are so already take no more memory.

    Raises:
        UserError: the file cannot be written.
    """
    # Of views, safetensors would write the memory that they look at.
    arrays = {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}
    checksums = {key: zlib.crc32(array) for key, array in arrays.items()}
    texts = {'format': format, **metadata, 'checksums': json.dumps(checksums)}
    try:
        with atomic_file(path) as file:
            save_file(arrays, file.name, texts | {'digest': _digest(texts)})
            # What is there now is another file than `file`, for the user alone: safetensors replaced it.
            os.chmod(file.name, os.fstat(file.fileno()).st_mode)
            with open(file.name, 'rb') as written:
                os.fsync(written.fileno())
    except (OSError, SafetensorError) as error:
        raise UserError(f'{path}: cannot be written ({reason(error)}); choose another place') from error


def read_header(path: str | Path, format: str, remedy: str) -> Header:
    """Reads a file of `save_arrays` without its arrays, and so without a look at damage that they may have.

    Raises:
        UserError: there is none, it is of another format, or its header is damaged. It says `remedy`.
    """
    if Path(path).is_dir():
        raise UserError(f'{path}: is a folder; {remedy}')
    try:
        with safe_open(path, 'numpy') as file:
            texts = file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; {remedy}') from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f'{path}: no safetensors file, or one that is not whole ({reason(error)}); {remedy}'
        ) from error
    if 'format' not in texts:
        raise UserError(f'{path}: is a safetensors file of another program; {remedy}')
    if texts['format'] != format:
        raise UserError(
            f'{path}: its format is {texts["format"]!r} and not {format!r}; {remedy}, of this version'
        )
    digest = texts.pop('digest', '')
    if digest != _digest(texts):
        raise damaged(path, 'its header is not what was written')
    del texts['format']
    return Header(texts, json.loads(texts.pop('checksums')), digest)


def load_arrays(path: str | Path, checksums: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The arrays of a file whose header was read.

    Raises:
        UserError: one of them is damaged or not finite.
    """
    arrays = {}
    for key, checksum in checksums.items():
        try:
            # Opened for each anew: what was read of a mapped file takes memory until it is closed.
            with safe_open(path, 'numpy') as file:
                arrays[key] = file.get_tensor(key)
        except SafetensorError as error:
            raise damaged(path, f'{key}: {reason(error)}') from error
        if zlib.crc32(arrays[key]) != checksum:
            raise damaged(path, f'{key} is not what was written')
    check_finite(path, arrays)
    return arrays


def check_finite(where: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """UserError, which names the array and the first such value, unless all values are finite."""
    for name, array in arrays.items():
        wrong = not_finite(array)
        if wrong:
            raise UserError(f'{where}: {name} is not finite ({wrong}); get or train these weights again')


def damaged(path: str | Path, what: str) -> UserError:
    """The error for a file that is not what was written."""
    return UserError(f'{path}: damaged ({what}); convert or copy it again')


def _digest(texts: Mapping[str, str]) -> str:
    return f'{zlib.crc32(json.dumps(texts, sort_keys=True).encode()):08x}'
