"""Our file of one network's weights: a file of `weights/arrays.py` with a description of the network.

Keys are the paths of the parameters, such as 'middle/attention/qkv/kernel'; arrays are float32. The metadata
hold the `network` and the `diffusion` process as JSON, and the `name` of the released model.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.images import Size
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig, describe_network, network_of
from diffusion_jax.settings import read_section
from diffusion_jax.weights import arrays
from diffusion_jax.weights.arrays import Header
from diffusion_jax.weights.known import MODELS, released_classes

FORMAT = 'diffusion_jax weights 1'
REMEDY = 'give a file that `diffusion-jax convert` wrote'


class Spec(NamedTuple):
    """A stored network, without its parameters.

    Attributes:
        network: dtype, remat and dropout are not stored and have their defaults.
        diffusion: the process that the network was trained with; only its levels concern a classifier.
        name: of the released model; '' for others.
        classes: the names of the classes in label order; () if unknown.
        digest: eight hex digits that identify the content of the file; '' before it is written.
        low_res_size: height and width of the images that an upsampler enlarges; None if unknown.
    """

    network: UNetConfig | ClassifierConfig
    diffusion: DiffusionConfig
    name: str = ''
    classes: tuple[str, ...] = ()
    digest: str = ''
    low_res_size: Size | None = None

    @property
    def process(self) -> dict[str, Any]:
        """What must be the same wherever the parameters are used; the loss need not."""
        if isinstance(self.network, ClassifierConfig):
            return self.diffusion.levels
        return {name: value for name, value in dataclasses.asdict(self.diffusion).items() if name != 'loss'}


def save_weights(path: str | Path, spec: Spec, params: Params) -> None:
    """Writes a file of weights, with the parameters as float32; see `arrays.save_arrays`."""
    metadata = {
        'network': json.dumps(describe_network(spec.network)),
        'diffusion': json.dumps(dataclasses.asdict(spec.diffusion)),
        'name': spec.name,
        'classes': json.dumps(spec.classes),
    }
    if spec.low_res_size:  # omitted otherwise, so that digests of files stay those of older versions
        metadata['low_res_size'] = json.dumps(spec.low_res_size)
    arrays.save_arrays(path, FORMAT, params, metadata)


def load_weights(path: str | Path) -> tuple[Spec, Params]:
    """Reads a file of `save_weights`; parameters are a nested dict of float32 NumPy arrays.

    Raises UserError if there is no such file, it has another format, or it is damaged.
    """
    header, params = arrays.load_arrays(path, FORMAT, REMEDY)
    return _spec(path, header), params


def read_spec(path: str | Path) -> Spec:
    """`load_weights` without the parameters, whose damage it does not detect."""
    return _spec(path, arrays.read_header(path, FORMAT, REMEDY))


def _spec(path: str | Path, header: Header) -> Spec:
    metadata = header.metadata
    try:
        network = network_of(json.loads(metadata['network']))
        diffusion = read_section(DiffusionConfig, json.loads(metadata['diffusion']), 'diffusion')
    except UserError as error:
        raise UserError(str(path), f'was written by another version ({error})', REMEDY) from error
    name = metadata['name']
    classes = tuple(json.loads(metadata.get('classes', '[]'))) or released_classes(name)
    published = MODELS[name].low_res_size if name in MODELS else None
    low_res_size = tuple(json.loads(metadata.get('low_res_size', '[]'))) or published
    return Spec(network, diffusion, name, classes, header.digest, low_res_size)
