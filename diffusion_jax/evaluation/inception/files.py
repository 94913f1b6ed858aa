"""Our file of Inception's parameters: a safetensors file that records the origin of the parameters."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from diffusion_jax.evaluation.inception.network import Params
from diffusion_jax.weights.arrays import load_arrays, save_arrays

FORMAT = 'diffusion_jax inception 1'


class InceptionWeights(NamedTuple):
    """The parameters of Inception v3 of 2015-12-05.

    Attributes:
        params: nested dict of float32 NumPy arrays with the shapes of `network.param_shapes`.
        sha256: of the parameters; see `params_sha256`.
        source: the name of the released file.
        source_sha256: of the bytes of that file.
    """

    params: Params
    sha256: str
    source: str
    source_sha256: str


def params_sha256(params: Params) -> str:
    """SHA-256 of all names, shapes and values; independent of the kind of file they came from."""
    digest = hashlib.sha256()
    for key, array in sorted(traverse_util.flatten_dict(params, sep='/').items()):
        digest.update(f'{key} {np.shape(array)}\n'.encode())
        digest.update(np.ascontiguousarray(array, '<f4').tobytes())
    return digest.hexdigest()


def save_inception(path: str | Path, weights: InceptionWeights) -> None:
    """Writes the file atomically. Raises UserError if it cannot be written."""
    metadata = {'source': weights.source, 'source_sha256': weights.source_sha256, 'sha256': weights.sha256}
    save_arrays(path, FORMAT, weights.params, metadata)


def load_inception(path: str | Path) -> InceptionWeights:
    """Reads a file of `save_inception`. Raises UserError if it is missing, damaged or of another format."""
    header, params = load_arrays(path, FORMAT, 'use a file written by `diffusion-jax convert-inception`')
    return InceptionWeights(params, **header.metadata)
