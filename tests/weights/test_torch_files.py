"""PyTorch's files. Most tests need PyTorch, the extra `convert`."""

import argparse
import errno
import importlib.util
import sys
from collections import OrderedDict

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.weights import torch_files
from diffusion_jax.weights.torch_files import read_state, write_state

torch = importlib.import_module('torch') if importlib.util.find_spec('torch') else None
needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch: pip install 'diffusion_jax[convert]'")

STATE = OrderedDict(
    (key, np.random.default_rng(i).standard_normal((40, 3 + i)).astype(np.float32))
    for i, key in enumerate(('out.weight', 'a.weight', 'b.bias'))
)


def assert_same(a, b):
    assert list(a) == list(b)
    for key in a:
        assert b[key].dtype == np.float32
        np.testing.assert_array_equal(a[key], b[key])


def tensors():
    return OrderedDict((key, torch.from_numpy(array)) for key, array in STATE.items())


def test_pytorch_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    there = tmp_path / 'a.pt'
    there.write_bytes(b'PK')
    for call in (lambda: read_state(there), lambda: write_state(tmp_path / 'b.pt', STATE)):
        with pytest.raises(UserError, match=r"pip install 'diffusion_jax\[convert\]'"):
            call()
    assert list(tmp_path.iterdir()) == [there]
    for path in (tmp_path / 'nothing.pt', tmp_path):
        with pytest.raises(UserError, match='no such file'):
            read_state(path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, 'Permission denied')

    (tmp_path / 'a.pt').touch()
    monkeypatch.setattr(torch_files, 'open', denied, raising=False)
    with pytest.raises(UserError, match=r'a.pt: cannot be read .Permission denied'):
        read_state(tmp_path / 'a.pt')


@needs_torch
def test_round_trip_is_exact(tmp_path):
    write_state(tmp_path / 'a.pt', STATE)
    assert_same(STATE, read_state(tmp_path / 'a.pt'))
    loaded = torch.load(tmp_path / 'a.pt', weights_only=True)
    assert type(loaded) is OrderedDict
    assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors().items())


@needs_torch
@pytest.mark.parametrize('wrap', [dict, lambda state: {'state_dict': state}, lambda state: {'model': state}])
def test_files_of_others_are_read(tmp_path, wrap):
    torch.save(wrap(tensors()), tmp_path / 'a.pt')
    assert_same(STATE, read_state(tmp_path / 'a.pt'))


@needs_torch
def test_files_of_the_old_format_are_read(tmp_path):
    torch.save(tensors(), tmp_path / 'a.pt', _use_new_zipfile_serialization=False)
    assert_same(STATE, read_state(tmp_path / 'a.pt'))


@needs_torch
@pytest.mark.parametrize('value', [np.nan, np.inf, 1e39])
def test_values_that_are_not_finite_in_float32_are_refused(tmp_path, value):
    state = {key: tensor.double() for key, tensor in tensors().items()}
    state['a.weight'][2, 1] = value
    torch.save(state, tmp_path / 'a.pt')
    with pytest.raises(UserError, match=r'a.pt: a.weight has .* at \[2, 1\]'):
        read_state(tmp_path / 'a.pt')


@needs_torch
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
def test_other_precisions_become_float32(tmp_path, dtype):
    state = {key: tensor.to(getattr(torch, dtype)) for key, tensor in tensors().items()}
    torch.save(state, tmp_path / 'a.pt')
    assert_same({key: tensor.float().numpy() for key, tensor in state.items()}, read_state(tmp_path / 'a.pt'))


@needs_torch
def test_transposed_arrays_and_parameters_are_read(tmp_path):
    state = {key: torch.nn.Parameter(tensor.T.contiguous().T) for key, tensor in tensors().items()}
    torch.save(state, tmp_path / 'a.pt')
    assert_same(STATE, read_state(tmp_path / 'a.pt'))


@needs_torch
@pytest.mark.parametrize(
    ('make', 'problem'),
    [
        (lambda: [torch.zeros(3)], '(list)'),
        (lambda: torch.zeros(3), '(Tensor)'),
        (dict, '(dict)'),
        (lambda: {'step': 3, **tensors()}, 'step is of type int'),
        (lambda: {'arguments': argparse.Namespace(), **tensors()}, 'cannot be read'),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path, make, problem):
    torch.save(make(), tmp_path / 'a.pt')
    with pytest.raises(UserError) as error:
        read_state(tmp_path / 'a.pt')
    assert error.value.where == str(tmp_path / 'a.pt') and problem in error.value.problem


@needs_torch
@pytest.mark.parametrize('new', [True, False])
def test_damaged_files_are_refused(tmp_path, new):
    path = tmp_path / 'a.pt'
    torch.save(tensors(), path, _use_new_zipfile_serialization=new)
    content = path.read_bytes()
    for damaged in (b'PK', content[: len(content) // 2], content[:-1000]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r'a.pt: cannot be read') as error:
            read_state(path)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'# a text\n'])
def test_other_files_are_refused_also_without_pytorch(tmp_path, monkeypatch, content):
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'README.md').write_bytes(content)
    with pytest.raises(UserError, match=r'README.md: is no file of weights'):
        read_state(tmp_path / 'README.md')
    np.savez(tmp_path / 'images.npz', arr_0=np.zeros(3))
    with pytest.raises(UserError, match=r'images.npz: is no file of weights'):
        read_state(tmp_path / 'images.npz')


@needs_torch
def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / 'a.pt'
    write_state(path, STATE)
    content = bytearray(path.read_bytes())
    content[content.find(STATE['a.weight'].tobytes()) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match='a.pt: damaged'):
        read_state(path)


@needs_torch
def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        write_state(tmp_path / 'file' / 'a.pt', STATE)
