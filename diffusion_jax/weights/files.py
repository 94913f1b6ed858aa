"""Our file of one network's weights: a safetensors file that says which network it is of.

Arrays have the paths of the parameters as keys, such as 'middle/attention/qkv/kernel', and are float32. The
metadata, texts all of them, hold the `format`, the `network` (its description) and the `diffusion` process as
JSON, the `name` that the weights were released by, and as JSON the checksum of every array. `digest` is the
checksum of all these. The format itself has no checksums: what a disk damages would come back unnoticed.
"""

from __future__ import annotations

import dataclasses
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

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.models import (
    ClassifierConfig,
    Params,
    UNetConfig,
    describe_network,
    network_of,
)
from diffusion_jax.settings import read_section
from diffusion_jax.workdir import atomic_file

FORMAT = 'diffusion_jax weights 1'


class Weights(NamedTuple):
    """One network with its parameters.

    Attributes:
        network: how it is computed (dtype, remat, dropout) is not stored, and comes back as the default.
        params: nested dict of float32 NumPy arrays; {} where only the header was read.
        diffusion: the process that the network was trained with; of it a classifier knows the levels only.
        name: of the released model; '' for others.
        digest: eight hex digits, another for any other content of the file; '' before it is written.
    """

    network: UNetConfig | ClassifierConfig
    params: Params
    diffusion: DiffusionConfig
    name: str = ''
    digest: str = ''

    @property
    def process(self) -> dict[str, Any]:
        """What must be the same wherever these parameters are used; the loss plays no part."""
        if isinstance(self.network, ClassifierConfig):
            return self.diffusion.levels
        return {name: value for name, value in dataclasses.asdict(self.diffusion).items() if name != 'loss'}


def save_weights(path: str | Path, weights: Weights) -> None:
    """Writes the whole file or nothing. Needs no memory beside the parameters if those are float32 already.

    Raises:
        UserError: the file cannot be written.
    """
    flat = traverse_util.flatten_dict(weights.params, sep='/')
    # Of views, safetensors would write the memory that they look at.
    arrays = {key: np.ascontiguousarray(array, np.float32) for key, array in flat.items()}
    metadata = {
        'format': FORMAT,
        'network': json.dumps(describe_network(weights.network)),
        'diffusion': json.dumps(dataclasses.asdict(weights.diffusion)),
        'name': weights.name,
        'checksums': json.dumps({key: zlib.crc32(array) for key, array in arrays.items()}),
    }
    try:
        with atomic_file(path) as file:
            save_file(arrays, file.name, metadata | {'digest': _digest(metadata)})
            # What is there now is another file than `file`, for the user alone: safetensors replaced it.
            os.chmod(file.name, os.fstat(file.fileno()).st_mode)
            with open(file.name, 'rb') as written:
                os.fsync(written.fileno())
    except (OSError, SafetensorError) as error:
        raise UserError(f'{path}: cannot be written ({error}); choose another place') from error


def load_weights(path: str | Path) -> Weights:
    """Reads a file of `save_weights`.

    Raises:
        UserError: there is none, it is not one of ours, or it is damaged.
    """
    header, checksums = _read_metadata(path)
    flat = {}
    for key, checksum in checksums.items():
        try:
            # Opened for each anew: what was read of a mapped file takes memory until it is closed.
            with safe_open(path, 'numpy') as file:
                flat[key] = file.get_tensor(key)
        except SafetensorError as error:
            raise _damaged(path, f'{key}: {error}') from error
        if zlib.crc32(flat[key]) != checksum:
            raise _damaged(path, f'{key} is not what was written')
    return header._replace(params=traverse_util.unflatten_dict(flat, sep='/'))


def read_header(path: str | Path) -> Weights:
    """The same without parameters, and so without a look at the damage that they may have taken.

    Raises:
        UserError: see `load_weights`.
    """
    return _read_metadata(path)[0]


def _read_metadata(path: str | Path) -> tuple[Weights, dict[str, int]]:
    """All but the parameters, and the checksum of each of them."""
    remedy = 'give a file that `diffusion-jax convert` wrote'
    if Path(path).is_dir():
        raise UserError(f'{path}: is a folder; `diffusion-jax convert {path} --out FILE` makes a file of it')
    if Path(path).suffix in ('.pt', '.pth'):
        raise UserError(f'{path}: is a file of PyTorch; convert it first, see `diffusion-jax convert --help`')
    try:
        with safe_open(path, 'numpy') as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; {remedy}') from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f'{path}: no safetensors file, or one that is not whole ({error}); {remedy}'
        ) from error
    if metadata.get('format') != FORMAT:
        raise UserError(
            f'{path}: its format is {metadata.get("format")!r} and not {FORMAT!r}; {remedy}, of this version'
        )
    digest = metadata.pop('digest', '')
    if digest != _digest(metadata):
        raise _damaged(path, 'its header is not what was written')
    try:
        network = network_of(json.loads(metadata['network']))
        diffusion = read_section(DiffusionConfig, json.loads(metadata['diffusion']), 'diffusion')
    except UserError as error:
        raise UserError(f'{path}: of another version ({error}); {remedy}, of this version') from error
    weights = Weights(network, {}, diffusion, metadata['name'], digest)
    return weights, json.loads(metadata['checksums'])


def _digest(metadata: Mapping[str, str]) -> str:
    return f'{zlib.crc32(json.dumps(metadata, sort_keys=True).encode()):08x}'


def _damaged(path: str | Path, what: str) -> UserError:
    return UserError(f'{path}: damaged ({what}); convert or copy it again')
