import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from diffusion_jax import workdir
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class Network:
    channels: int
    mult: tuple[int, ...]


@pytest.mark.parametrize('number', [float('nan'), np.float32(np.inf), -np.inf])
def test_numbers_that_are_not_finite_are_never_written(number, tmp_path):
    path = tmp_path / 'a.json'
    for value, key in (
        ({'a': {'b': number}}, 'a.b'),
        ({'a': [{'b': 1.0}, [2.0, number]]}, 'a[1][1]'),
        ({'a': np.array([0.0, number])}, 'a[1]'),
    ):
        with pytest.raises(UserError) as error:
            workdir.write_json(path, value)
        assert str(path) in str(error.value) and f'{key} is {float(number)}' in str(error.value)
    assert not path.exists()


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


def test_unwritable_folder():
    with pytest.raises(UserError, match='/proc/run: cannot be written .*choose another'):
        with workdir.lock('/proc/run'):
            pass


def test_damaged_stamp(tmp_path):
    for content in ('', '{"seed"', '[1]', 'null'):
        (tmp_path / workdir.STAMP_FILE).write_text(content)
        with pytest.raises(UserError, match='stamp.json: (cannot be read|damaged)'):
            workdir.read_stamp(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='/file: is a file; --workdir needs a folder'):
        with workdir.lock(tmp_path / 'file' / 'a' / 'b'):
            pass
    with pytest.raises(UserError, match='/file: is a file; .*/file/result.json needs a folder there'):
        workdir.check_place(tmp_path / 'file' / 'result.json')
