"""NVIDIA's files. The real ones are not here: these have their names and their structure."""

import pickle

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception.nvidia import read_nvidia_pickle, read_nvidia_torchscript
from tests.evaluation.inception import foreign
from tests.evaluation.inception.foreign import (
    assert_same,
    execute,
    pickle_of,
    pytorch,
    random_state,
    tiny_shapes,
    torchscript_of,
)

STATE = random_state(tiny_shapes())
KINDS = [(read_nvidia_torchscript, torchscript_of), (read_nvidia_pickle, pickle_of)]


@pytest.mark.parametrize(('read', 'make'), KINDS)
def test_a_file_is_read_bit_for_bit(tmp_path, read, make):
    (tmp_path / 'file').write_bytes(make(STATE))
    assert_same(read(tmp_path / 'file'), STATE)


def test_names_are_those_that_others_have_found_in_the_files():
    assert {
        'layers.conv_4.weight',
        'layers.mixed.conv.beta',
        'layers.mixed_4.tower_1.conv_3.mean',
        'layers.mixed_8.tower.conv_1.var',
        'layers.mixed_9.conv.weight',
        'layers.mixed_10.tower_2_conv.var',
        'layers.mixed_10.tower_1_mixed_conv_1.mean',
    } <= foreign.nvidia_state(STATE).keys()


@pytest.mark.parametrize(('read', 'make'), KINDS)
def test_a_damaged_file_is_named(tmp_path, read, make):
    content = make(STATE)
    for damaged in (b'', b'no weights', content[:100], content[: len(content) // 2], content[:-1]):
        (tmp_path / 'file').write_bytes(damaged)
        with pytest.raises(UserError, match='file: cannot be read .*; give .*, whole, or') as error:
            read(tmp_path / 'file')
        assert '\n' not in str(error.value)


@pytest.mark.parametrize(('read', 'make'), KINDS)
def test_an_array_that_is_missing_is_named(tmp_path, monkeypatch, read, make):
    monkeypatch.setattr(foreign, 'LEAVES', {'conv.weight': 'weight'})
    (tmp_path / 'file').write_bytes(make(STATE))
    with pytest.raises(UserError, match='file: has no array layers.conv.beta; give'):
        read(tmp_path / 'file')


class Evil:
    def __reduce__(self):
        return execute, ()


def test_nothing_in_a_pickle_is_called(tmp_path):
    for value in (Evil(), {'layers': Evil()}, [3], 'text'):
        (tmp_path / 'file').write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match='file: has no array layers.conv.weight'):
            read_nvidia_pickle(tmp_path / 'file')


@pytest.mark.parametrize(
    ('offset', 'shape', 'strides'),
    [
        (0, (5,), (1,)),
        (-1, (2,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 2)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_named(tmp_path, offset, shape, strides):
    class Beyond(foreign.Tensor):
        def __reduce__(self):
            function, (storage, *_) = super().__reduce__()
            return function, (storage, offset, shape, strides)

    with pytorch():
        (tmp_path / 'file').write_bytes(pickle.dumps(Beyond(np.zeros(4, np.float32))))
    with pytest.raises(UserError, match='cannot be read .ValueError'):
        read_nvidia_pickle(tmp_path / 'file')
