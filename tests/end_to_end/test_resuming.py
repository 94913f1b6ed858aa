"""A run that was stopped, killed or damaged ends like one that was not disturbed."""

import contextlib
import dataclasses
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.stages import sample, train
from tests.program import ROOT, SLOW_MAIN, arguments, assert_same_end, logged, run
from tests.stages.runs import make_run


def interrupt(workdir, number, after):
    """Trains, and sends the signal once `after` lines are logged; stderr and the exit code."""
    command = [sys.executable, '-c', SLOW_MAIN, *arguments(workdir, 'train')[1:]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    metrics, end = workdir / 'diffusion' / 'metrics.jsonl', time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < after:
        assert time.monotonic() < end and process.poll() is None, 'the training logged nothing'
        time.sleep(0.05)
    process.send_signal(number)
    return process.communicate(timeout=120)[1], process.returncode


def test_a_stopped_run_resumes_to_the_same_end(finished, tmp_path, monkeypatch, capfd):
    """The real signals are sent in tests/test_interruption.py and tests/stages/test_likelihood.py."""
    log = tmp_path / 'diffusion' / 'metrics.jsonl'
    with monkeypatch.context() as patch:
        stop = contextlib.nullcontext(lambda: log.exists() and log.stat().st_size > 0)
        patch.setattr(main, 'stop_requests', lambda: stop)
        assert run(tmp_path, 'train') == 130
    said = capfd.readouterr().err
    stopped = re.search(r'diffusion: stopped at step (\d) of 6, which is saved', said).group(1)
    assert (tmp_path / 'diffusion' / 'checkpoints' / stopped).is_dir()
    assert run(tmp_path, 'train') == 0
    assert_same_end(tmp_path, finished)


@pytest.mark.slow  # tests/training/test_loop.py has the order of the hooks in the fast tier
def test_an_evaluation_that_was_stopped_is_repeated(finished, tmp_path, monkeypatch, capfd):
    """After the last step, whose checkpoint exists: the stage is complete only when the evaluation is."""
    shutil.copytree(finished / 'diffusion', tmp_path / 'diffusion')
    shutil.rmtree(tmp_path / 'diffusion' / 'checkpoints' / '6')
    grid = tmp_path / 'diffusion' / 'grids' / 'step_00000006.png'
    grid.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(main, 'stop_requests', lambda: contextlib.nullcontext(grid.exists))
        assert run(tmp_path, 'train') == 130
    assert 'diffusion: stopped at step 6 of 6, which is saved' in capfd.readouterr().err
    assert (tmp_path / 'diffusion' / 'checkpoints' / '6').is_dir()
    evaluated = [line['step'] for line in logged(tmp_path / 'diffusion') if 'sample_recall' in line]
    assert evaluated == [3]
    assert run(tmp_path, 'train') == 0
    assert_same_end(tmp_path, finished)
    capfd.readouterr()
    assert run(tmp_path, 'train') == 0
    assert 'train: complete already' in capfd.readouterr().err


# A run that is killed shortly after a line of metrics.
KILLED = """
import os, signal, sys, threading, time
from diffusion_jax import main
from diffusion_jax.training import loop
scalars = loop.MetricsWriter.scalars
def write(*args):
    scalars(*args)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
    time.sleep(0.3)
loop.MetricsWriter.scalars = write
sys.exit(main.main())
"""


def test_a_killed_run_resumes_to_the_same_end(finished, tmp_path):
    change = {'train__checkpoint_every': 1, 'train__sample_every': 0}
    command = [sys.executable, '-c', KILLED, *arguments(tmp_path, 'train', **change)[1:]]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert not (tmp_path / 'diffusion' / 'checkpoints' / '6').exists()
    assert run(tmp_path, 'train', **change) == 0
    assert_same_end(tmp_path, finished)


@pytest.mark.slow
def test_a_run_that_is_killed_many_times_resumes_to_the_same_end(finished, tmp_path):
    for lines in (1, 2, 2, 3):
        _, code = interrupt(tmp_path, signal.SIGKILL, after=lines)
        assert code == -signal.SIGKILL
    assert run(tmp_path, 'train') == 0
    assert_same_end(tmp_path, finished)


def test_a_training_is_complete_when_its_last_step_is_saved_and_logged(finished, tmp_path):
    folder = shutil.copytree(finished / 'diffusion', tmp_path / 'diffusion')
    run = make_run(tmp_path, ('train',))
    training = train.locate(run)
    assert train.complete(run, training)
    further = dataclasses.replace(training.config, num_steps=7)
    assert not train.complete(run, training._replace(config=further))
    lines = (folder / 'metrics.jsonl').read_text().splitlines(keepends=True)
    (folder / 'metrics.jsonl').write_text(''.join(line for line in lines if '"step": 6' not in line))
    assert not train.complete(run, training)
    (folder / 'metrics.jsonl').write_text(''.join(lines))
    assert train.complete(run, training)
    shutil.rmtree(folder / 'checkpoints' / '6' / 'digests')
    assert not train.complete(run, training)


@pytest.mark.parametrize(
    'name', ['grid.png', 'samples.npz', 'unguided/grid.png', 'shards/00000016-00000020.npz']
)
def test_samples_are_complete_with_all_their_files(finished, tmp_path, name):
    folder = Path(shutil.copytree(finished, tmp_path / 'run'))
    run = make_run(folder, ('sample',))
    assert sample.complete(run, sample.locate(run))
    (folder / 'samples' / name).unlink()
    assert not sample.complete(run, sample.locate(run))


@pytest.mark.slow  # tests/training/test_damage.py has every kind of damage in the fast tier
def test_a_damaged_last_checkpoint_is_replaced_from_the_one_before(finished, tmp_path, capfd):
    shutil.copytree(finished / 'diffusion', tmp_path / 'diffusion')
    data = (tmp_path / 'diffusion' / 'checkpoints' / '6' / 'ema_0.995').rglob('*')
    largest = max((path for path in data if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert run(tmp_path, 'sample', sample__scale=0) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert 'checkpoints/6: damaged (' in said and 'move this folder away' in said
    shutil.move(tmp_path / 'diffusion' / 'checkpoints' / '6', tmp_path / 'damaged')
    assert run(tmp_path, 'train', train__sample_every=0) == 0
    assert 'resuming from step 3' in capfd.readouterr().err
    assert_same_end(tmp_path, finished)


@pytest.mark.slow  # tests/test_shards.py stops and continues shards in the fast tier
def test_a_stopped_sampling_resumes_to_the_same_end(finished, tmp_path, monkeypatch):
    networks = {f'pretrained__{name}': finished / name for name in ('diffusion', 'classifier')}
    change = networks | {'sample__batch_size': 8, 'sample__unguided': False}
    answers = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(main, 'stop_requests', lambda: contextlib.nullcontext(lambda: next(answers, True)))
        assert run(tmp_path / 'stopped', 'sample', **change) == 130
    assert len(list((tmp_path / 'stopped' / 'samples' / 'shards').iterdir())) == 2
    assert run(tmp_path / 'stopped', 'sample', **change) == 0
    assert run(tmp_path / 'undisturbed', 'sample', **change) == 0
    one, two = (tmp_path / name / 'samples' / 'samples.npz' for name in ('stopped', 'undisturbed'))
    with np.load(one) as stopped, np.load(two) as undisturbed:
        np.testing.assert_array_equal(stopped['arr_0'], undisturbed['arr_0'])
