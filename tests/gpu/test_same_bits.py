"""With config.deterministic a training that is killed ends with the bits of one that is not."""

import shutil
import signal
import subprocess
import sys
import time

from tests.program import ROOT, SLOW_MAIN, arguments, assert_same_end

SETTINGS = {'deterministic': True, 'train__sample_every': 0, 'train__evaluate_every': 0}


def start(program, workdir):
    command = [sys.executable, *program, *arguments(workdir, 'train', **SETTINGS)[1:]]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def train(workdir):
    process = start(['-m', 'diffusion_jax.main'], workdir)
    err = process.communicate(timeout=200)[1]
    assert process.returncode == 0, err
    return err


def kill_after_a_checkpoint(workdir):
    process, end = start(['-c', SLOW_MAIN], workdir), time.monotonic() + 200
    while not (workdir / 'diffusion' / 'checkpoints' / '3').is_dir():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def forget_programs(workdir):
    """Removes compiled programs, and keeps the choices of kernels that they were compiled with."""
    programs = list((workdir / 'compiled').glob('*-cache'))
    assert programs
    for path in programs:
        path.unlink()


def test_a_killed_training_ends_with_the_same_bits(tmp_path):
    """All in one folder, whose path is part of what JAX knows a program by; each process compiles again."""
    workdir, finished = tmp_path / 'run', tmp_path / 'finished'
    train(workdir)
    shutil.move(workdir / 'diffusion', finished / 'diffusion')
    forget_programs(workdir)
    kill_after_a_checkpoint(workdir)
    assert not (workdir / 'diffusion' / 'checkpoints' / '6').exists()
    forget_programs(workdir)
    assert 'resuming from step 3' in train(workdir)
    assert_same_end(workdir, finished)
