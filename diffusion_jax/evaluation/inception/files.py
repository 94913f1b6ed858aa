"""Our file of Inception's parameters: a file of `weights/arrays.py` that says where they are from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from diffusion_jax.evaluation.inception.network import Params
from diffusion_jax.weights.arrays import damaged, load_arrays, save_arrays

FORMAT = 'diffusion_jax inception 1'


class Inception(NamedTuple):
    """Inception v3 of 2015-12-05.

    Attributes:
        params: nested dict of float32 NumPy arrays, of the shapes of `network.param_shapes`.
        sha256: of the parameters, see `params_sha256`.
        source: the name of the file that they were read from.
        source_sha256: of that file's bytes.
    """

    params: Params
    sha256: str
    source: str
    source_sha256: str


def params_sha256(params: Params) -> str:
    """SHA-256 of all names, shapes and values: the same whatever kind of file the parameters came from."""
    digest = hashlib.sha256()
    for key, array in sorted(traverse_util.flatten_dict(params, sep='/').items()):
        digest.update(f'{key} {np.shape(array)}\n'.encode())
        digest.update(np.ascontiguousarray(array, '<f4'))
    return digest.hexdigest()


def save_inception(path: str | Path, inception: Inception) -> None:
    """Writes the whole file or nothing.

    Raises:
        UserError: the file cannot be written.
    """
    metadata = {
        'source': inception.source,
        'source_sha256': inception.source_sha256,
        'sha256': inception.sha256,
    }
    save_arrays(path, FORMAT, inception.params, metadata)


def load_inception(path: str | Path) -> Inception:
    """Reads a file of `save_inception`.

    Raises:
        UserError: there is none, it is not one of ours, or it is damaged.
    """
    remedy = 'give a file that `diffusion-jax convert-inception` wrote'
    header, params = load_arrays(path, FORMAT, remedy)
    if params_sha256(params) != header.metadata['sha256']:
        raise damaged(path, 'SHA-256 of the parameters')
    return Inception(params, **header.metadata)
