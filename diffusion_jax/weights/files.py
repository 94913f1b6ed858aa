"""Our file of one network's weights: a file of `weights/arrays.py` that says which network it is of.

Arrays have the paths of the parameters as keys, such as 'middle/attention/qkv/kernel', and are float32. The
metadata hold the `network` (its description) and the `diffusion` process as JSON, and the `name` that the
weights were released by.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from flax import traverse_util

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
from diffusion_jax.weights import arrays
from diffusion_jax.weights.released import released_classes

FORMAT = 'diffusion_jax weights 1'


class Weights(NamedTuple):
    """One network with its parameters.

    Attributes:
        network: how it is computed (dtype, remat, dropout) is not stored, and comes back as the default.
        params: nested dict of float32 NumPy arrays; {} where only the header was read.
        diffusion: the process that the network was trained with; of it a classifier knows the levels only.
        name: of the released model; '' for others.
        classes: the names of the classes in label order; () where they are not known.
        digest: eight hex digits, another for any other content of the file; '' before it is written.
    """

    network: UNetConfig | ClassifierConfig
    params: Params
    diffusion: DiffusionConfig
    name: str = ''
    classes: tuple[str, ...] = ()
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
    metadata = {
        'network': json.dumps(describe_network(weights.network)),
        'diffusion': json.dumps(dataclasses.asdict(weights.diffusion)),
        'name': weights.name,
        'classes': json.dumps(weights.classes),
    }
    arrays.save_arrays(path, FORMAT, traverse_util.flatten_dict(weights.params, sep='/'), metadata)


def load_weights(path: str | Path) -> Weights:
    """Reads a file of `save_weights`.

    Raises:
        UserError: there is none, it is not one of ours, or it is damaged.
    """
    weights, checksums = _read_metadata(path)
    flat = arrays.load_arrays(path, checksums)
    return weights._replace(params=traverse_util.unflatten_dict(flat, sep='/'))


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
        raise UserError(
            f'{path}: is a folder; give a file, which `diffusion-jax convert` makes of a folder of training '
            'such as runs/digits/diffusion'
        )
    if Path(path).suffix in ('.pt', '.pth'):
        raise UserError(f'{path}: is a file of PyTorch; convert it first, see `diffusion-jax convert --help`')
    metadata, checksums, digest = arrays.read_header(path, FORMAT, remedy)
    try:
        network = network_of(json.loads(metadata['network']))
        diffusion = read_section(DiffusionConfig, json.loads(metadata['diffusion']), 'diffusion')
    except UserError as error:
        raise UserError(f'{path}: of another version ({error}); {remedy}, of this version') from error
    classes = tuple(json.loads(metadata.get('classes', '[]'))) or released_classes(metadata['name'])
    return Weights(network, {}, diffusion, metadata['name'], classes, digest), checksums
