"""PyTorch's files of weights, read and written as NumPy arrays. PyTorch itself is the extra `convert`."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError, reason
from diffusion_jax.weights.arrays import check_finite
from diffusion_jax.workdir import atomic_file

# What some trainers put around a state_dict.
WRAPPERS = ('state_dict', 'model')


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The state_dict in a .pt file, as float32; nothing but arrays is unpickled.

    What is float32 in the file stays in the file, mapped into memory.

    Raises:
        UserError: PyTorch is missing, or the file is: no state_dict, not whole, of more than arrays, or of
            arrays that are not finite in float32.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such file; give a .pt file')
    torch = _import_torch()
    state = _load(torch, path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise UserError(f'{path}: holds no arrays by name ({type(state).__name__}); give a state_dict')
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f'{path}: {key} is no array but of type {type(value).__name__}; save the state_dict alone'
            )
    arrays = {key: tensor.detach().float().numpy() for key, tensor in state.items()}
    check_finite(path, arrays)
    return arrays


def write_state(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state_dict as torch.save does; the whole file or nothing.

    Raises:
        UserError: PyTorch is missing, or the file cannot be written.
    """
    torch = _import_torch()
    tensors = OrderedDict((key, torch.from_numpy(array)) for key, array in state.items())
    try:
        with atomic_file(path) as file:
            torch.save(tensors, file)
    except (OSError, RuntimeError) as error:
        raise UserError(f'{path}: cannot be written ({reason(error)}); choose another place') from error


def _load(torch: ModuleType, path: Path) -> Any:
    """Whatever is in the file. A mapped file is read through first, since PyTorch does not check its sums."""
    mapped = zipfile.is_zipfile(path)  # not so in the format before PyTorch 1.6, which cannot be mapped
    try:
        damaged = zipfile.ZipFile(path).testzip() if mapped else None
        if damaged is None:
            return torch.load(path, map_location='cpu', weights_only=True, mmap=mapped)
    except Exception as error:  # of all kinds: any byte of a foreign file can be taken for an instruction
        why = f'{type(error).__name__}: {error}'.splitlines()[0].split('. ')[0].rstrip(': ')
        raise UserError(
            f'{path}: cannot be read as a file of weights ({why}); '
            'is it a .pt file, whole, and of nothing but arrays?'
        ) from error
    raise UserError(f'{path}: damaged ({damaged} is not what was written); copy it again')


def _import_torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "files of PyTorch need PyTorch: pip install 'diffusion_jax[convert]' (its CPU build will do)"
        ) from error
    return torch
