"""Our parameters and the authors' state_dict: one table of names, one rule of layouts.

The authors' arrays are PyTorch's: Conv2d [out, in, height, width], Conv1d [out, in, 1], Linear [out, in].
Our kernels are [height, width, in, out], or [in, out] for whatever acts on single pixels.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, UNetConfig, param_shapes
from diffusion_jax.models.layout import make_layout

Shapes = Mapping[str, tuple[int, ...]]


class Module(NamedTuple):
    """A module of the authors': its key, and the number of trailing axes of length 1 of its weight."""

    key: str
    ones: int = 0


# Each table is in the order of the authors' state_dict.
EMBEDDINGS = {
    'time_embedding/linear_in': Module('time_embed.0'),
    'time_embedding/linear_out': Module('time_embed.2'),
    'label_embedding': Module('label_emb'),
}
LAYERS = {
    'conv': {'': Module('')},
    'residual': {
        '/norm_in': Module('.in_layers.0'),
        '/conv_in': Module('.in_layers.2'),
        '/embedding': Module('.emb_layers.1'),
        '/norm_out': Module('.out_layers.0'),
        '/conv_out': Module('.out_layers.3'),
        '/skip': Module('.skip_connection', 2),
    },
    'attention': {'/norm': Module('.norm'), '/qkv': Module('.qkv', 1), '/out': Module('.proj_out', 1)},
    'downsample': {'/conv': Module('.op')},
    'upsample': {'/conv': Module('.conv')},
}
UNET_OUT = {'norm_out': Module('out.0'), 'conv_out': Module('out.2')}
HEADS = {
    'adaptive': {'head/norm': Module('out.0'), 'head/out': Module('out.3', 2)},
    'attention': {
        'head/norm': Module('out.0'),
        'head/pool': Module('out.2'),
        'head/pool/qkv': Module('out.2.qkv_proj', 1),
        'head/pool/out': Module('out.2.c_proj', 1),
    },
    'spatial': {'head/linear': Module('out.0'), 'head/out': Module('out.2')},
    'spatial_v2': {'head/linear': Module('out.0'), 'head/norm': Module('out.1'), 'head/out': Module('out.3')},
}
LEAVES = {  # our name of an array to the authors', in their order
    'position': 'positional_embedding',
    'embedding': 'weight',
    'scale': 'weight',
    'kernel': 'weight',
    'bias': 'bias',
}
TRANSPOSED = ('position', 'kernel')


class Entry(NamedTuple):
    """One parameter: our path and shape, the authors' key and shape."""

    path: str
    shape: tuple[int, ...]
    key: str
    their_shape: tuple[int, ...]

    @property
    def transposed(self) -> bool:
        return self.path.rpartition('/')[-1] in TRANSPOSED


def reference_shapes(config: UNetConfig | ClassifierConfig) -> dict[str, tuple[int, ...]]:
    """The authors' keys and shapes for a network, in the order of their state_dict. Allocates nothing."""
    return {entry.key: entry.their_shape for entry in _entries(config)}


def from_reference(config: UNetConfig | ClassifierConfig, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters from the authors' state_dict, as float32 NumPy arrays. Raises as `check_state`."""
    check_state(config, state)
    params = {}
    for entry in _entries(config):
        array = np.asarray(state[entry.key], np.float32).reshape(entry.their_shape)
        if entry.transposed:
            array = np.moveaxis(array, (0, 1), (-1, -2))
        params[entry.path] = np.array(array, order='C').reshape(entry.shape)
    return traverse_util.unflatten_dict(params, sep='/')


def check_state(config: UNetConfig | ClassifierConfig, state: Mapping[str, np.ndarray]) -> None:
    """UserError unless the keys and shapes of a state_dict are those of the network; see `fitted`."""
    expected = reference_shapes(config)
    _check_shapes(expected, fitted({key: np.shape(array) for key, array in state.items()}, expected))


def to_reference(config: UNetConfig | ClassifierConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The exact inverse of `from_reference`. Raises UserError unless the parameters are of the network."""
    flat, state = traverse_util.flatten_dict(params, sep='/'), {}
    found = {path: np.shape(array) for path, array in flat.items()}
    _check_shapes({entry.path: entry.shape for entry in _entries(config)}, found)
    for entry in _entries(config):
        array = np.asarray(flat[entry.path])
        if entry.transposed:
            outputs, inputs, *window = entry.their_shape
            array = np.moveaxis(array.reshape(*window, inputs, outputs), (-1, -2), (0, 1))
        state[entry.key] = np.array(array, order='C')
    return state


def fitted(shapes: Shapes, expected: Shapes) -> Shapes:
    """Shapes as expected where they differ in trailing axes of length 1 only.

    A linear map of channels is [out, in], [out, in, 1] or [out, in, 1, 1] in files of different origin.
    """
    return {
        key: expected[key] if key in expected and _trimmed(shape) == _trimmed(expected[key]) else shape
        for key, shape in shapes.items()
    }


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


@functools.lru_cache
def _entries(config: UNetConfig | ClassifierConfig) -> tuple[Entry, ...]:
    shapes = traverse_util.flatten_dict(param_shapes(config), sep='/')
    entries = []
    for name, module in _modules(config).items():
        for leaf, their_leaf in LEAVES.items():
            path = f'{name}/{leaf}'
            if path in shapes:
                shape = shapes[path].shape
                theirs = (shape[-1], shape[-2], *shape[:-2]) if leaf in TRANSPOSED else shape
                ones = (1,) * module.ones if leaf == 'kernel' else ()
                entries.append(Entry(path, shape, f'{module.key}.{their_leaf}', theirs + ones))
    return tuple(entries)


def _modules(config: UNetConfig | ClassifierConfig) -> dict[str, Module]:
    """The table for one network: our modules to the authors', also those that this network lacks."""
    layout = make_layout(config)
    blocks = [
        *((f'encoder/block_{i}', f'input_blocks.{i}', block) for i, block in enumerate(layout.encoder)),
        ('middle', 'middle_block', layout.middle),
        *((f'decoder/block_{i}', f'output_blocks.{i}', block) for i, block in enumerate(layout.decoder)),
    ]
    modules = dict(EMBEDDINGS)
    for ours, theirs, block in blocks:
        for j, layer in enumerate(block):
            for part, module in LAYERS[layer.kind].items():
                modules[f'{ours}/{layer.name}{part}'] = module._replace(key=f'{theirs}.{j}{module.key}')
    return modules | (UNET_OUT if isinstance(config, UNetConfig) else HEADS[config.pool])


def _check_shapes(expected: Shapes, found: Shapes) -> None:
    wrong = [
        f'{name}: {expected.get(name, "nothing")} expected, {found.get(name, "nothing")} found'
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        rest = [f'and {len(wrong) - 3} more'] if len(wrong) > 3 else []
        raise UserError('arrays', f'are not those of the network ({"; ".join(wrong[:3] + rest)})')
