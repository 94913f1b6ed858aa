"""Training on a full disk: a small one in memory, which only root can mount."""

import os
import subprocess
import sys

import pytest

from tests.program import ROOT, arguments, assert_same_end, run


@pytest.fixture
def small_disk(tmp_path):
    """32 MB, room for some checkpoints; all but a small part of one is taken."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    options = ['-t', 'tmpfs', '-o', 'size=32m', 'tmpfs']
    if os.geteuid() or subprocess.run(['mount', *options, disk], stderr=subprocess.DEVNULL).returncode:
        pytest.skip('no file system can be mounted here')
    try:
        (disk / 'filler').write_bytes(bytes(32 * 2**20 - 2**17))
        yield disk
    finally:
        subprocess.run(['umount', '--lazy', disk], check=True)


@pytest.mark.slow
def test_training_continues_and_a_last_step_that_is_not_saved_is_an_error(finished, small_disk):
    command = [sys.executable, '-m', 'diffusion_jax.main', *arguments(small_disk, 'train')[1:]]
    program = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lines = program.stderr.splitlines()
    assert program.returncode == 2, program.stderr
    failed = [line for line in lines if 'could not be saved (' in line and 'No space left on device' in line]
    assert 'step 3' in failed[0] and all('step 6' in line for line in failed[1:])
    assert failed[-1] == lines[-1] and 'from the start' in lines[-1]
    assert len(lines) < 20 and len(failed) in (2, 3) and 'Traceback' not in program.stderr
    assert list((small_disk / 'diffusion' / 'checkpoints').iterdir()) == []
    (small_disk / 'filler').unlink()
    assert run(small_disk, 'train') == 0
    assert_same_end(small_disk, finished)
