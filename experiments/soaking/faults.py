"""Faults of a run. Each ends the run, checks its effect and returns a description of it."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from soaking.run import NO_END, Run

TMPFS_MEGABYTES = 512


def kill(run: Run, dice: random.Random) -> str:
    run.kill()
    return f'killed after the line of step {run.step()}'


def terminate(run: Run, dice: random.Random) -> str:
    return f'left at step {_left_after_sigterm(run)}'


def kill_while_sampling(run: Run, dice: random.Random) -> str:
    while True:
        run.wait_for('samples', run.is_sampling)
        time.sleep(dice.uniform(0, 0.3))
        run.kill()
        if run.is_sampling():
            return f'killed while samples of step {run.step()} were drawn'
        run.start(NO_END)  # the signal was too late


def terminate_while_sampling(run: Run, dice: random.Random) -> str:
    """The step must be saved and not logged: its hooks are repeated."""
    while True:
        run.wait_for('samples', run.is_sampling)
        step = _left_after_sigterm(run)
        if run.step() < step:
            return f'left at step {step}, before its hooks had ended'
        run.start(NO_END)


def flip_bit(run: Run, dice: random.Random) -> str:
    run.kill()
    path = _some_data(run, dice)
    content = bytearray(path.read_bytes())
    byte, bit = dice.randrange(len(content)), dice.randrange(8)
    content[byte] ^= 1 << bit
    path.write_bytes(content)
    return f'flipped bit {bit} of byte {byte} of {path.relative_to(run.checkpoints)}'


def truncate(run: Run, dice: random.Random) -> str:
    run.kill()
    path = _some_data(run, dice)
    before = path.stat().st_size
    os.truncate(path, dice.randrange(before))
    return f'left {path.stat().st_size} of {before} bytes of {path.relative_to(run.checkpoints)}'


def remove_file(run: Run, dice: random.Random) -> str:
    run.kill()
    path = _some_data(run, dice)
    path.unlink()
    return f'removed {path.relative_to(run.checkpoints)}'


def empty_folder(run: Run, dice: random.Random) -> str:
    run.kill()
    newest = run.checkpoints / str(run.saved()[-1])
    shutil.rmtree(newest)
    newest.mkdir()
    return f'emptied {newest.name}'


def fill_disk(run: Run, dice: random.Random) -> str:
    """The run must report it, continue, and save again when there is room."""
    with full_disk(run):
        run.wait_for('full disk', lambda: _unsaved(run) > 0)
    newest = run.saved()[-1]
    run.wait_for('room again', lambda: run.saved()[-1] > newest)
    run.kill()
    return f'checkpoints that could not be saved: {_unsaved(run)}; saved again at step {run.saved()[-1]}'


def kill_on_full_disk(run: Run, dice: random.Random) -> str:
    with full_disk(run):
        time.sleep(dice.uniform(0, 2))
        run.kill()
    return f'killed; checkpoints that could not be saved before: {_unsaved(run)}'


def late_host(run: Run, dice: random.Random) -> str:
    run.kill()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        coordinator = f'127.0.0.1:{free.getsockname()[1]}'
    hosts = (f'--coordinator={coordinator}', '--num_hosts=2', '--host=0', '--initialization_timeout=3')
    run.start(NO_END, *hosts)
    code = run.end()
    if code == 0 or 'not all hosts connected' not in run.said():
        run.fail(f'late host: exit code {code}')
    return f'started as one of two hosts, which ended with exit code {code}'


FAULTS = {
    'SIGKILL': kill,
    'SIGTERM': terminate,
    'SIGKILL while samples are drawn': kill_while_sampling,
    'SIGTERM while samples are drawn': terminate_while_sampling,
    'a bit flipped in the newest checkpoint': flip_bit,
    'a file of it cut short': truncate,
    'a file of it missing': remove_file,
    'all of it missing': empty_folder,
    'a full disk, then room again': fill_disk,
    'SIGKILL on a full disk': kill_on_full_disk,
    'a host that stays away': late_host,
}
ON_TMPFS = ('a full disk, then room again', 'SIGKILL on a full disk')


def _left_after_sigterm(run: Run) -> int:
    """The step that it saved."""
    run.process.send_signal(signal.SIGTERM)
    code = run.end()
    stopped = re.search(r'diffusion: stopped at step (\d+) of \d+, which is saved', run.said())
    if code != 130 or not stopped:
        run.fail(f'SIGTERM: exit code {code}')
    return int(stopped.group(1))


def _some_data(run: Run, dice: random.Random) -> Path:
    """A file of the newest checkpoint that holds arrays or says where they are, the larger the likelier."""
    newest = run.checkpoints / str(run.saved()[-1])
    files = [path for path in newest.rglob('*') if path.parent.name == 'd' or path.name == 'manifest.ocdbt']
    return dice.choices(sorted(files), [path.stat().st_size for path in sorted(files)])[0]


def _unsaved(run: Run) -> int:
    return run.said().count('could not be saved (')


@contextlib.contextmanager
def full_disk(run: Run) -> Iterator[None]:
    filler = run.workdir / 'filler'
    with open(filler, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[bool]:
    """Whether a file system of its own could be mounted there."""
    directory.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', f'size={TMPFS_MEGABYTES}m', 'tmpfs', directory]
    may = bool(shutil.which('mount')) and os.geteuid() == 0
    mounted = may and subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(['umount', '--lazy', directory], check=True)
