"""Our parameters and the authors' state_dict: one table of names, one rule of layouts.

The authors' arrays are PyTorch's: Conv2d [out, in, height, width], Conv1d [out, in, 1], Linear [out, in].
Our kernels are [height, width, in, out], or [in, out] for whatever acts on single pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, UNetConfig, param_shapes
from diffusion_jax.models.layout import make_layout


class Module(NamedTuple):
    """A module of the authors': its key, and how many axes of length 1 end its weight but not our kernel."""

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
    'attention': {
        '/norm': Module('.norm'),
        '/qkv': Module('.qkv', 1),
        '/out': Module('.proj_out', 1),
    },
    'downsample': {'/conv': Module('.op')},
    'upsample': {'/conv': Module('.conv')},
}
UNET_OUT = {
    'norm_out': Module('out.0'),
    'conv_out': Module('out.2'),
}
HEADS = {
    'adaptive': {
        'head/norm': Module('out.0'),
        'head/out': Module('out.3', 2),
    },
    'attention': {
        'head/norm': Module('out.0'),
        'head/pool': Module('out.2'),
        'head/pool/qkv': Module('out.2.qkv_proj', 1),
        'head/pool/out': Module('out.2.c_proj', 1),
    },
    'spatial': {
        'head/linear': Module('out.0'),
        'head/out': Module('out.2'),
    },
    'spatial_v2': {
        'head/linear': Module('out.0'),
        'head/norm': Module('out.1'),
        'head/out': Module('out.3'),
    },
}
LEAVES = {
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


def reference_shapes(config: UNetConfig | ClassifierConfig) -> dict[str, tuple[int, ...]]:
    """The authors' keys and shapes for a network, in the order of their state_dict. Allocates nothing."""
    return {entry.key: entry.their_shape for entry in _entries(config)}


def from_reference(config: UNetConfig | ClassifierConfig, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters from the authors' state_dict, as float32 NumPy arrays.

    Raises UserError where the state's keys and shapes are not those of the network.
    """
    _check_shapes(reference_shapes(config), {key: np.shape(array) for key, array in state.items()})
    params = {entry.path: _to_ours(entry, state[entry.key]) for entry in _entries(config)}
    return traverse_util.unflatten_dict(params, sep='/')


def to_reference(config: UNetConfig | ClassifierConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The authors' state_dict of a network: the exact inverse of `from_reference`.

    Raises UserError where the parameters are not those of the network.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    expected = {entry.path: entry.shape for entry in _entries(config)}
    _check_shapes(expected, {path: np.shape(leaf) for path, leaf in flat.items()})
    return {entry.key: _to_theirs(entry, np.asarray(flat[entry.path])) for entry in _entries(config)}


@functools.lru_cache
def _entries(config: UNetConfig | ClassifierConfig) -> tuple[Entry, ...]:
    shapes = {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(param_shapes(config), sep='/').items()
    }
    entries = []
    for name, module in _modules(config).items():
        for leaf, their_leaf in LEAVES.items():
            path = f'{name}/{leaf}'
            if path in shapes:
                shape = shapes[path]
                theirs = (shape[-1], shape[-2], *shape[:-2]) if leaf in TRANSPOSED else shape
                ones = module.ones if leaf == 'kernel' else 0
                entries.append(Entry(path, shape, f'{module.key}.{their_leaf}', theirs + ones * (1,)))
    return tuple(entries)


def _modules(config: UNetConfig | ClassifierConfig) -> dict[str, Module]:
    """The table for one network: our module to the authors', those that this network lacks included."""
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


def _to_ours(entry: Entry, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if _transposed(entry):
        array = np.moveaxis(array, (0, 1), (-1, -2))
    return np.array(array, order='C').reshape(entry.shape)


def _to_theirs(entry: Entry, array: np.ndarray) -> np.ndarray:
    if _transposed(entry):
        outputs, inputs, *window = entry.their_shape
        array = np.moveaxis(array.reshape(*window, inputs, outputs), (-1, -2), (0, 1))
    return np.array(array, order='C')


def _transposed(entry: Entry) -> bool:
    return entry.path.rpartition('/')[-1] in TRANSPOSED


def _check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    names = [*expected, *(name for name in found if name not in expected)]
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    if wrong:
        listed = '; '.join(
            f'{name}: {expected.get(name, "nothing")} expected, {found.get(name, "nothing")} found'
            for name in wrong[:3]
        )
        rest = f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise UserError(f'arrays are not those of the network ({listed}{rest})')
