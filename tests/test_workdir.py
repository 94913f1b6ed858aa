import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax import workdir
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class Network:
    channels: int
    mult: tuple[int, ...]


def test_files_come_back(tmp_path):
    workdir.write_json(
        tmp_path / 'new' / 'a.json', {'path': Path('x'), 'size': np.int64(3), 'net': Network(8, (1, 2))}
    )
    assert json.loads((tmp_path / 'new' / 'a.json').read_text()) == {
        'path': 'x',
        'size': 3,
        'net': {'channels': 8, 'mult': [1, 2]},
    }
    images = np.arange(6, dtype=np.uint8).reshape(2, 3)
    workdir.write_npz(tmp_path / 'b.npz', arr_0=images, arr_1=images[:, 0])
    with np.load(tmp_path / 'b.npz') as file:
        np.testing.assert_array_equal(file['arr_0'], images)
        np.testing.assert_array_equal(file['arr_1'], images[:, 0])


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a'
    workdir.write_bytes(path, b'old')
    with pytest.raises(KeyboardInterrupt), workdir.atomic_file(path) as file:
        file.write(b'half of the n')
        file.flush()
        assert path.read_bytes() == b'old'
        raise KeyboardInterrupt
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a']


def test_second_run_is_refused_while_the_first_lasts(tmp_path):
    with workdir.lock(tmp_path / 'run'):
        with pytest.raises(UserError, match=f'run: in use by process {os.getpid()} on .+; wait'):
            with workdir.lock(tmp_path / 'run'):
                pass
    with workdir.lock(tmp_path / 'run'):
        pass


def test_killed_run_holds_nothing(tmp_path):
    program = f"""
from diffusion_jax import workdir
with workdir.lock({str(tmp_path)!r}):
    print('held', flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b'held\n'
            with pytest.raises(UserError, match=f'process {process.pid} '):
                with workdir.lock(tmp_path):
                    pass
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        with workdir.lock(tmp_path):
            pass


def test_unwritable_folder(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file/run: cannot be written .*choose another'):
        with workdir.lock(tmp_path / 'file' / 'run'):
            pass


def test_stamp_is_written_once_and_compared(tmp_path):
    stamp = {'seed': 0, 'unet': Network(8, (1, 2))}
    workdir.check_stamp(tmp_path, stamp)
    workdir.write_stamp(tmp_path, stamp)
    workdir.check_stamp(tmp_path, stamp)
    with pytest.raises(UserError) as caught:
        workdir.check_stamp(tmp_path, {'unet': Network(16, (1, 2)), 'schedule': 'cosine'})
    message = str(caught.value)
    assert 'unet.channels: had 8, now 16' in message
    assert 'seed: had 0, now (not set)' in message
    assert 'schedule: had (not set), now cosine' in message
    assert 'mult' not in message and '\n' not in message
    workdir.check_stamp(tmp_path, stamp)


def test_damaged_stamp(tmp_path):
    (tmp_path / workdir.STAMP_FILE).write_text('{"seed"')
    with pytest.raises(UserError, match='stamp.json: is no stamp'):
        workdir.check_stamp(tmp_path, {})


settings_trees = st.dictionaries(
    st.text('abc', min_size=1, max_size=2),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.tuples(inner, inner) | st.dictionaries(st.text('abc', min_size=1, max_size=2), inner)
        ),
        max_leaves=6,
    ),
)


@given(settings_trees, settings_trees)
def test_difference_is_empty_exactly_for_equal_settings(old, new):
    assert workdir.stamp_difference(json.loads(json.dumps(old)), old) == {}
    same = workdir.normalise(old) == workdir.normalise(new)
    assert (workdir.stamp_difference(old, new) == {}) == same


def test_a_path_is_the_same_however_it_was_typed():
    old = {'data': {'path': './images/'}, 'url': 'gs://a//b/'}
    same, other = old | {'data': {'path': 'images'}}, old | {'data': {'path': 'others'}}
    assert workdir.stamp_difference(old, same) == {}
    assert workdir.stamp_difference(old, other).keys() == {'data.path'}
