"""Files are written completely or not at all, a folder is held by one run, and stamps come back."""

import errno
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
from tests.errors import refused


@dataclass(frozen=True)
class Network:
    channels: int
    mult: tuple[int, ...]


VALUE = {
    'path': Path('x'),
    'size': np.int64(3),
    'net': Network(8, (1, 2)),
    'array': np.array([0.5]),
    'f': 1e-9,
}
NORMAL = {'path': 'x', 'size': 3, 'net': {'channels': 8, 'mult': [1, 2]}, 'array': [0.5], 'f': 1e-9}
IMAGES = np.arange(6, dtype=np.uint8).reshape(2, 3)


@pytest.mark.parametrize('number', [float('nan'), np.float32(np.inf), -np.inf])
def test_numbers_that_are_not_finite_are_never_written(number, tmp_path):
    path = tmp_path / 'a.json'
    for value, key in (
        ({'a': {'b': number}}, 'a.b'),
        ({'a': [{'b': 1.0}, [2.0, number]]}, 'a.1.1'),
        ({'a': np.array([0.0, number])}, 'a.1'),
    ):
        with refused(str(path), f'{key} is {float(number)}'):
            workdir.write_json(path, value)
    assert not path.exists()


def test_files_come_back(tmp_path):
    workdir.write_json(tmp_path / 'new' / 'a.json', VALUE)
    assert json.loads((tmp_path / 'new' / 'a.json').read_text()) == NORMAL == workdir.normalise(VALUE)
    workdir.write_npz(tmp_path / 'b.npz', arr_0=IMAGES, arr_1=IMAGES[:, 0])
    with np.load(tmp_path / 'b.npz') as file:
        np.testing.assert_array_equal(file['arr_0'], IMAGES)
        np.testing.assert_array_equal(file['arr_1'], IMAGES[:, 0])


@pytest.mark.parametrize(
    'write',
    [
        lambda path: workdir.write_bytes(path, b'new'),
        lambda path: workdir.write_npz(path, arr_0=IMAGES),
        lambda path: workdir.write_json(path, VALUE),
    ],
    ids=['bytes', 'npz', 'json'],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, write):
    """The disk is found full when the data, not yet the name, is written."""
    path = tmp_path / 'a'
    path.write_bytes(b'old')

    def full(*arguments):
        assert path.read_bytes() == b'old'
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match='No space'):
            write(path)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a']
    write(path)
    assert path.read_bytes() != b'old'


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(b'old')
    with pytest.raises(KeyboardInterrupt), workdir.atomic_file(path) as file:
        file.write(b'half of the n')
        file.flush()
        assert path.read_bytes() == b'old'
        raise KeyboardInterrupt
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a']


def test_two_processes_write_one_file_without_mixing(tmp_path, monkeypatch):
    path = tmp_path / 'a'
    with workdir.atomic_file(path) as ours:
        ours.write(b'ours')
        with monkeypatch.context() as patch:
            patch.setattr(os, 'getpid', lambda: -1)
            workdir.write_bytes(path, b'theirs')
        assert path.read_bytes() == b'theirs'
    assert path.read_bytes() == b'ours'


def test_a_second_run_is_refused_while_the_first_holds_the_folder(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / workdir.LOCK_FILE).write_text('process of an earlier run, ')
    with workdir.lock(tmp_path / 'run'):
        with refused('run', f'by process {os.getpid()} on '), workdir.lock(tmp_path / 'run'):
            pass
    with workdir.lock(tmp_path / 'run'):
        pass


def test_a_killed_run_holds_nothing(tmp_path):
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
            with refused(str(tmp_path), f'process {process.pid} '), workdir.lock(tmp_path):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        with workdir.lock(tmp_path):
            pass


def test_folders_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    for path in (Path('/proc/run'), tmp_path / 'file', tmp_path / 'file' / 'a' / 'b'):
        with refused(str(path), 'another path'), workdir.lock(path):
            pass
    for path in (Path('/proc/run/a.json'), tmp_path / 'file' / 'a.json', tmp_path):
        with refused(str(path)):
            workdir.check_writable(path)
    workdir.check_writable(tmp_path / 'new' / 'a.json')
    assert os.listdir(tmp_path / 'new') == []


def test_a_damaged_stamp_is_refused(tmp_path):
    assert workdir.read_stamp(tmp_path) is None
    for content in ('', '{"seed"', '[1]', 'null'):
        (tmp_path / workdir.STAMP_FILE).write_text(content)
        with refused('stamp.json'):
            workdir.read_stamp(tmp_path)
    workdir.write_stamp(tmp_path, {'seed': 1})
    assert workdir.read_stamp(tmp_path) == {'seed': 1}
