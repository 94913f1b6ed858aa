"""Parameters and texts in one safetensors file that detects damage: the form of every file of weights.

safetensors has no checksums, so the metadata (all of them texts) also hold the `checksums` of the arrays as
JSON, and the `digest`, a checksum of the metadata.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diffusion_jax.checks import not_finite
from diffusion_jax.errors import UserError, reason
from diffusion_jax.workdir import atomic_file


class Header(NamedTuple):
    """All but the arrays.

    Attributes:
        metadata: as given to `save_arrays`.
        checksums: the CRC-32 of each array.
        digest: eight hex digits that identify the content of the file.
    """

    metadata: dict[str, str]
    checksums: dict[str, int]
    digest: str


def save_arrays(
    path: str | Path, format: str, params: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Writes the complete file or nothing, arrays as float32. Copies only arrays of other dtypes or layouts.

    Raises UserError if the file cannot be written.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    # safetensors writes the buffer of a view, whatever its strides.
    arrays = {key: np.ascontiguousarray(array, np.float32) for key, array in flat.items()}
    checksums = {key: zlib.crc32(array.data) for key, array in arrays.items()}
    texts = {'format': format, **metadata, 'checksums': json.dumps(checksums)}
    try:
        with atomic_file(path) as file:
            save_file(arrays, file.name, texts | {'digest': _digest(texts)})
            # safetensors replaced `file` by another that only the user can read.
            os.chmod(file.name, os.fstat(file.fileno()).st_mode)
            with open(file.name, 'rb') as written:
                os.fsync(written.fileno())
    except (OSError, SafetensorError) as error:
        raise UserError(str(path), f'cannot be written ({reason(error)})', 'choose another path') from error


def read_header(path: str | Path, format: str, remedy: str) -> Header:
    """Reads a file of `save_arrays` without its arrays, whose damage it does not detect.

    Raises UserError if there is no such file, it is of another format, or its header is damaged.
    """
    try:
        with safe_open(path, 'numpy') as file:
            texts = file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(str(path), 'no such file', remedy) from error
    except (OSError, SafetensorError) as error:
        problem = 'is a folder' if Path(path).is_dir() else f'is no intact safetensors file ({reason(error)})'
        raise UserError(str(path), problem, remedy) from error
    if texts.get('format') != format:
        raise UserError(str(path), f'has the format {texts.get("format")!r}, not {format!r}', remedy)
    digest = texts.pop('digest', '')
    if digest != _digest(texts):
        raise damaged(path, 'header')
    del texts['format']
    return Header(texts, json.loads(texts.pop('checksums')), digest)


def load_arrays(path: str | Path, format: str, remedy: str) -> tuple[Header, dict[str, Any]]:
    """Reads a file of `save_arrays`: its header, and its parameters as a nested dict.

    Raises UserError as `read_header`, or if an array is damaged or not finite.
    """
    header, arrays = read_header(path, format, remedy), {}
    for key, checksum in header.checksums.items():
        try:
            # Opened again for each: the pages of a mapped file stay in memory until it is closed.
            with safe_open(path, 'numpy') as file:
                arrays[key] = file.get_tensor(key)
        except SafetensorError as error:
            raise damaged(path, f'{key}: {reason(error)}') from error
        if zlib.crc32(arrays[key]) != checksum:
            raise damaged(path, key)
    check_finite(path, arrays)
    return header, traverse_util.unflatten_dict(arrays, sep='/')


def check_finite(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """UserError with the name of the array unless all values are finite."""
    for name, array in arrays.items():
        if value := not_finite(array):
            raise UserError(str(path), f'{name} has {value}', 'use weights that are finite in float32')


def damaged(path: str | Path, what: str) -> UserError:
    """The error for a file whose content does not match its checksum."""
    return UserError(str(path), f'damaged ({what})', 'convert or copy it again')


def _digest(texts: Mapping[str, str]) -> str:
    return f'{zlib.crc32(json.dumps(texts, sort_keys=True).encode()):08x}'
