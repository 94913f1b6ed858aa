"""NVIDIA's translations of Inception v3: a TorchScript archive (StyleGAN2-ADA) and a pickle (StyleGAN3).

Both hold the modules `layers` and `output`. Those within `layers` are named after TensorFlow's scopes; each
convolution has the arrays weight, beta, mean and var: gamma is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception.scopes import SCOPES, Convolution, port_state
from diffusion_jax.evaluation.inception.unpickling import Record, read_pickle, read_torchscript


def read_nvidia_torchscript(path: str | Path) -> dict[str, np.ndarray]:
    """The weights in inception-2015-12-05.pt, by names and in layouts of the PyTorch port (`names.py`).

    Raises:
        UserError: the file is damaged or another.
    """
    return _read(path, read_torchscript, 'inception-2015-12-05.pt of StyleGAN2-ADA')


def read_nvidia_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """The same of inception-v3-2015-12-05.pkl.

    Raises:
        UserError: the file is damaged or another.
    """
    return _read(path, read_pickle, 'inception-v3-2015-12-05.pkl of StyleGAN3')


def _read(path: str | Path, read: Callable[[str | Path], Any], expected: str) -> dict[str, np.ndarray]:
    remedy = f'give {expected}, whole, or another source (diffusion-jax convert-inception --help)'
    try:
        module = read(path)
    except Exception as error:  # of all kinds: any byte of a foreign file can be taken for an instruction
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise UserError(f'{path}: cannot be read ({reason}); {remedy}') from error
    try:
        convolutions = {scope: _convolution(module, _layer_name(scope)) for scope in SCOPES.values()}
        return port_state(convolutions, _array(module, 'output.weight'))
    except UserError as error:
        raise UserError(f'{path}: {error}; {remedy}') from error


def _convolution(module: Any, name: str) -> Convolution:
    kernel, beta, mean, variance = (
        _array(module, f'{name}.{leaf}') for leaf in ('weight', 'beta', 'mean', 'var')
    )
    return Convolution(kernel, np.ones_like(beta), beta, mean, variance)


def _layer_name(scope: str) -> str:
    """mixed_4/tower/conv_1 → layers.mixed_4.tower.conv_1; the last two blocks have no modules for towers."""
    block, *inner = scope.split('/')
    return '.'.join(['layers', block, *(['_'.join(inner)] if block in ('mixed_9', 'mixed_10') else inner)])


def _array(module: Any, key: str) -> np.ndarray:
    """An array within a module by its key in the state_dict."""
    value = module
    for name in key.split('.'):
        value = _members(value).get(name)
    if not isinstance(value, np.ndarray):
        raise UserError(f'has no array {key}')
    return value


def _members(module: Any) -> Mapping[str, Any]:
    """The arrays and modules in a module: a TorchScript object's attributes, or those that `nn.Module` keeps.

    StyleGAN's persistent classes hand over the state of an object as an argument, with the source code.
    """
    if not isinstance(module, Record):
        return {}
    state = module.state
    if not state and module.arguments and isinstance(module.arguments[0], dict):
        state = module.arguments[0].get('state')
    if not isinstance(state, dict):
        return {}
    groups = [state.get(group) for group in ('_parameters', '_buffers', '_modules')]
    members = {name: value for group in groups if isinstance(group, dict) for name, value in group.items()}
    return members or state
