"""Files of weights of others: PyTorch's, and safetensors in the layout of diffusers or of the authors."""

import functools
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from diffusion_jax.errors import UserError, reason
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.weights import diffusers_layout
from diffusion_jax.weights.arrays import check_finite
from diffusion_jax.weights.files import Spec
from diffusion_jax.weights.known import MODELS, released_classes, resembling
from diffusion_jax.weights.reference import check_state, from_reference
from diffusion_jax.weights.torch_files import read_state

OURS = 'diffusion_jax'  # how the format of our own files begins
SAFETENSORS = '.safetensors'


class Foreign(NamedTuple):
    """The content of a file of others.

    Attributes:
        state: float32 arrays in the authors' names.
        diffusers: the file is in the layout of diffusers.
    """

    path: Path
    state: dict[str, np.ndarray]
    diffusers: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: array.shape for key, array in self.state.items()}


def is_foreign(path: str | Path) -> bool:
    """Whether a file exists that is not one of ours."""
    path = Path(path)
    if path.suffix != SAFETENSORS:
        return path.is_file()
    try:
        with safe_open(path, 'numpy') as file:
            return not (file.metadata() or {}).get('format', '').startswith(OURS)
    except (OSError, SafetensorError):
        return False


def read_foreign(path: str | Path) -> Foreign:
    """Reads a file of PyTorch, see `read_state`, or a safetensors file. Raises UserError if it is damaged."""
    path = Path(path)
    if path.suffix == SAFETENSORS:
        try:
            state = {key: np.asarray(array, np.float32) for key, array in load_file(path).items()}
        except (OSError, SafetensorError, TypeError, KeyError) as error:
            raise UserError(str(path), f'cannot be read ({reason(error)})', 'copy it again') from error
        check_finite(path, state)
    else:
        state = read_state(path)
    named = diffusers_layout.in_their_names(state)
    return Foreign(path, named, diffusers=named.keys() != state.keys())


def recognise(file: Foreign, name: str = '') -> tuple[Spec, str]:
    """The published model that a file holds, and in words which it is.

    Of models that share an architecture it is the one that the file is named after.
    Raises UserError if the arrays are not similar to those of any published model.

    name: of the model, instead of recognising it by its arrays.
    """
    names = (name,) if name else resembling(file.shapes).names
    if not names:
        key, shape = next(iter(file.shapes.items()))
        problem = f'resembles no published model (its first array is {key} {shape})'
        raise UserError(str(file.path), problem, 'give the config of its network to `diffusion-jax convert`')
    called = file.path.stem if file.path.stem in names else ''
    name, model = names[0] if len(names) == 1 else called, MODELS[names[0]]
    unknown = f'{" or ".join(names)} (with NAME before it, the file also keeps its recipes)'
    classes = released_classes(names[0])
    spec = Spec(model.network, model.diffusion, name, classes, low_res_size=model.low_res_size)
    return spec, name or unknown


def params_of(file: Foreign, network: UNetConfig | ClassifierConfig, what: str) -> Params:
    """The parameters in a file. what: the network in words.

    Raises UserError if the arrays are not those of the network, or config.json is not next to a file of
    diffusers.
    """
    try:
        check_state(network, file.state)
    except UserError as error:
        problem = f'is not {what}: {error}; {resembling(file.shapes)}'
        remedy = 'give the right name, the config of its network, or a complete file'
        raise UserError(str(file.path), problem, remedy) from error
    if not file.diffusers:
        return from_reference(network, file.state)
    order = diffusers_layout.stored_order(file.path, network.num_head_channels)
    heads: int = network.num_head_channels  # type: ignore[assignment]  # stored_order has checked it
    return from_reference(network, diffusers_layout.in_order(file.state, order, network.qkv_order, heads))


def describe_foreign(path: Path) -> Spec:
    """`load_foreign` without the parameters; a file is read again only if it has changed."""
    stat = path.stat()
    return _describe(path, stat.st_mtime_ns, stat.st_size)


def load_foreign(path: Path) -> tuple[Spec, Params]:
    """The published model that a file holds, and its parameters; see `recognise` and `params_of`."""
    file = read_foreign(path)
    spec, what = recognise(file)
    digest = 0
    for array in file.state.values():
        digest = zlib.crc32(np.ascontiguousarray(array).data, digest)
    return spec._replace(digest=f'{digest:08x}'), params_of(file, spec.network, what)


@functools.lru_cache(maxsize=8)
def _describe(path: Path, modified: int, size: int) -> Spec:
    return load_foreign(path)[0]
