"""Pickles of PyTorch modules, read without running anything of theirs.

A pickle is a program that may call whatever it names. Here a name stands for an inert record of what it was
called with. Exceptions are `OrderedDict`, and the functions and storages that PyTorch makes tensors with:
they become NumPy arrays. So neither PyTorch nor the modules' classes are needed.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# With it PyTorch begins whatever it writes in its format before 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Record(dict):
    """What stands for an object of any class, or for the result of any function. It calls nothing.

    Attributes:
        arguments: what it was called with.
        state: what would have become its attributes.
    """

    def __new__(cls, *arguments: Any, **_: Any) -> Record:
        record = super().__new__(cls)
        record.arguments, record.state = arguments, {}
        return record

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_pickle(path: str | Path) -> Any:
    """The object in a file of `pickle.dump`. Raises whatever a file that is none of these makes it raise."""
    with open(path, 'rb') as file:
        return _Unpickler(file, _no_storage).load()


def read_torchscript(path: str | Path) -> Any:
    """The module in an archive of `torch.jit.save`. Raises whatever a file that is none makes it raise."""
    with zipfile.ZipFile(path) as archive:
        (main,) = (name for name in archive.namelist() if name.endswith('/data.pkl'))
        folder = main.removesuffix('data.pkl')

        def storage(dtype: np.dtype, key: str) -> np.ndarray:
            return np.frombuffer(archive.read(f'{folder}data/{key}'), dtype)

        return _Unpickler(io.BytesIO(archive.read(main)), storage).load()


class _Unpickler(pickle.Unpickler):
    """Rebuilds arrays, and records of all else.

    Args:
        storage: maps the type and the key of a storage outside the pickle to its content.
    """

    def __init__(self, file: io.IOBase, storage: Callable[[np.dtype, str], Any]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get(f'{module}.{name}', Record)

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, *_ = pid
        if kind != 'storage' or not isinstance(dtype, np.dtype):
            raise ValueError(f'{kind} of type {dtype}')
        return self._storage(dtype, key)


def _no_storage(dtype: np.dtype, key: str) -> Any:
    raise ValueError(f'storage {key} is not in the file')


def _load_storage(data: bytes) -> np.ndarray:
    """A storage on its own, in the format before PyTorch 1.6: five pickles, its length and its content."""
    stream = io.BytesIO(data)
    magic, _, _, (dtype, key), keys = (
        _Unpickler(stream, lambda dtype, key: (dtype, key)).load() for _ in range(5)
    )
    if magic != LEGACY_MAGIC or keys != [key]:
        raise ValueError('no storage of PyTorch')
    count = int.from_bytes(stream.read(8), 'little')
    return np.frombuffer(data, dtype, count, stream.tell())


def _tensor(
    storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> np.ndarray:
    """A view of a storage; offset and strides count elements."""
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min([offset, *strides]) < 0 or min([1, *shape]) < 1 or last >= len(storage):
        raise ValueError(f'a tensor of shape {shape} is not within its storage')
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [stride * storage.itemsize for stride in strides], writeable=False
    )


_KNOWN = {
    'collections.OrderedDict': OrderedDict,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': lambda tensor, *_: tensor,
    'torch.storage._load_from_bytes': _load_storage,
    'torch.HalfStorage': np.dtype('<f2'),
    'torch.FloatStorage': np.dtype('<f4'),
    'torch.DoubleStorage': np.dtype('<f8'),
    'torch.LongStorage': np.dtype('<i8'),
}
