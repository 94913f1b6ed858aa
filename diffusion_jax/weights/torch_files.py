"""PyTorch's files of weights, read and written as NumPy arrays. PyTorch itself is the extra `convert`."""

import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError, reason
from diffusion_jax.weights.arrays import check_finite, damaged
from diffusion_jax.workdir import atomic_file

WRAPPERS = ('state_dict', 'model')  # keys under which some trainers store a state_dict
REMEDY = 'give a .pt file of a state_dict'
STARTS = (b'PK', b'\x80')  # of the present format, a zip archive, and of the one before PyTorch 1.6


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The state_dict in a .pt file, as float32; nothing but arrays is unpickled.

    Arrays that are float32 in the file stay in the file, mapped into memory.
    Raises UserError if the file is missing, damaged, no state_dict or not finite in float32, or if PyTorch is
    not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(str(path), 'no such file', REMEDY)
    try:
        with open(path, 'rb') as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(str(path), f'cannot be read ({reason(error)})', REMEDY) from error
    if not start.startswith(STARTS) or (zipfile.is_zipfile(path) and not _holds_pickle(path)):
        raise UserError(str(path), 'is no file of weights', REMEDY)
    torch = _import_torch()
    state = _load(torch, path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise UserError(str(path), f'holds no arrays by name ({type(state).__name__})', REMEDY)
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(str(path), f'{key} is of type {type(value).__name__}, not an array', REMEDY)
    arrays = {key: tensor.detach().float().numpy() for key, tensor in state.items()}
    check_finite(path, arrays)
    return arrays


def write_state(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state_dict like torch.save, the complete file or nothing.

    Raises UserError if PyTorch is not installed, or the file cannot be written.
    """
    torch = _import_torch()
    tensors = OrderedDict((key, torch.from_numpy(array)) for key, array in state.items())
    try:
        with atomic_file(path) as file:
            torch.save(tensors, file)
    except (OSError, RuntimeError) as error:
        raise UserError(str(path), f'cannot be written ({reason(error)})', 'choose another path') from error


def _holds_pickle(path: Path) -> bool:
    """Whether a zip archive may be of PyTorch, unlike an .npz file."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('.pkl') for name in archive.namelist())


def _load(torch: ModuleType, path: Path) -> Any:
    """The content of a file. PyTorch does not check the checksums of a mapped file, so they are checked."""
    mapped = zipfile.is_zipfile(path)  # False for the format before PyTorch 1.6, which cannot be mapped
    try:
        wrong = zipfile.ZipFile(path).testzip() if mapped else None
        if wrong is None:
            return torch.load(path, map_location='cpu', weights_only=True, mmap=mapped)
    except Exception as error:  # of many classes: any byte of another file may be taken for an instruction
        why = f'{type(error).__name__}: {error}'.splitlines()[0].split('. ')[0].rstrip(': ')
        raise UserError(str(path), f'cannot be read as a file of weights ({why})', REMEDY) from error
    raise damaged(path, wrong)


def _import_torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        remedy = "pip install 'diffusion_jax[convert]'"
        raise UserError('.pt files', 'PyTorch, which reads and writes them, is missing', remedy) from error
    return torch
