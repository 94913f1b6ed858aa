"""Training on the digits with a fault every few seconds, compared with a training that nobody disturbs.

    python experiments/soak.py --minutes=30

The same tiny run is started again and again. A moment after it gets ahead, something drawn at random befalls
it: SIGKILL; SIGTERM; SIGKILL and damage to its newest checkpoint; a full disk, which it outlives or on which
it is killed; a start as one of two hosts of which the other stays away. In the end it is let run to a last
step, and so is another one from the beginning. Parameters, averages, optimizer, position in the data and
metrics of the two must be equal to the bit. The full disk is a tmpfs, which only root can mount; others do
without.

Writes results/soak.md and results/soak.json. The exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / 'results'
SETTINGS = {
    'unet.channel_mult': '(1,)',
    'unet.attention_resolutions': '()',
    'train.batch_size': 16,
    'train.learning_rate_schedule': 'constant',
    'train.timestep_sampler': 'loss_second_moment',
    'train.log_every': 10,
    'train.sample_every': 0,
    'train.checkpoint_every': 50,
}
TMPFS_MEGABYTES = 512
PATIENCE = 300  # seconds until a start that does not get ahead is a failure
NO_END = 10**8  # steps


class Run:
    """The program in one working directory: the process that trains, and what it has left there."""

    def __init__(self, workdir: Path, cache: Path):
        self.workdir, self.log = workdir, workdir.with_name(f'{workdir.name}.log')
        self.checkpoints = workdir / 'diffusion' / 'checkpoints'
        self.metrics = workdir / 'diffusion' / 'metrics.jsonl'
        # One device, and programs that are compiled once: so little separates a start from its first step.
        self.environment = os.environ | {
            'PYTHONPATH': str(ROOT),
            'JAX_PLATFORMS': 'cpu',
            'JAX_COMPILATION_CACHE_DIR': str(cache),
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
        }

    def start(self, num_steps: int, *flags: str) -> None:
        command = [sys.executable, '-m', 'diffusion_jax.main', f'--config={ROOT / "configs" / "digits.py"}']
        command += [f'--workdir={self.workdir}', '--stage=train', f'--config.train.num_steps={num_steps}']
        command += [f'--config.{name}={value}' for name, value in SETTINGS.items()]
        self.written = self.last_written()
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(
                [*command, *flags], cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def end(self, number: int = 0) -> int:
        """The exit code, after a signal if `number` is one."""
        if number:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE * 10)

    def said(self) -> str:
        return self.log.read_text()

    def last_written(self) -> int:
        return self.metrics.stat().st_mtime_ns if self.metrics.exists() else 0

    def gets_ahead(self) -> bool:
        return self.last_written() > self.written and self.step() > self.resumed_at()

    def step(self) -> int:
        """Of the last whole line of metrics."""
        lines = self.metrics.read_bytes() if self.metrics.exists() else b''
        steps = re.findall(rb'^\{"step": (\d+), .*\n', lines, re.M)
        return int(steps[-1]) if steps else 0

    def resumed_at(self) -> int:
        match = re.search(r'diffusion: goes on from step (\d+)', self.said())
        return int(match.group(1)) if match else 0

    def saved(self) -> list[int]:
        names = [path.name for path in self.checkpoints.iterdir()] if self.checkpoints.is_dir() else []
        return sorted(int(name) for name in names if name.isdigit())

    def wait_for(self, what: str, condition: Any) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until or self.process.poll() is not None:
                sys.exit(f'{what}: waited in vain; the run said\n{self.said()}')
            time.sleep(0.02)


def kill(run: Run, dice: random.Random) -> None:
    run.end(signal.SIGKILL)


def terminate(run: Run, dice: random.Random) -> None:
    code = run.end(signal.SIGTERM)
    if code != 130 or 'which is saved' not in run.said():
        sys.exit(f'SIGTERM: exit code {code}; the run said\n{run.said()}')


def flip_bit(run: Run, dice: random.Random) -> None:
    run.end(signal.SIGKILL)
    path = _some_data(run, dice)
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def truncate(run: Run, dice: random.Random) -> None:
    run.end(signal.SIGKILL)
    path = _some_data(run, dice)
    os.truncate(path, dice.randrange(path.stat().st_size))


def remove_file(run: Run, dice: random.Random) -> None:
    run.end(signal.SIGKILL)
    _some_data(run, dice).unlink()


def empty_folder(run: Run, dice: random.Random) -> None:
    run.end(signal.SIGKILL)
    newest = run.checkpoints / str(run.saved()[-1])
    shutil.rmtree(newest)
    newest.mkdir()


def fill_disk(run: Run, dice: random.Random) -> None:
    """It must say so and go on, and save again when there is room."""
    with full_disk(run):
        run.wait_for('full disk', lambda: 'could not be saved (no space left' in run.said())
    newest = run.saved()[-1]
    run.wait_for('room again', lambda: run.saved()[-1] > newest)
    run.end(signal.SIGKILL)


def kill_on_full_disk(run: Run, dice: random.Random) -> None:
    with full_disk(run):
        time.sleep(dice.uniform(0, 2))
        run.end(signal.SIGKILL)


def late_host(run: Run, dice: random.Random) -> None:
    run.end(signal.SIGKILL)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        coordinator = f'127.0.0.1:{free.getsockname()[1]}'
    hosts = (f'--coordinator={coordinator}', '--num_hosts=2', '--host=0', '--initialization_timeout=3')
    run.start(NO_END, *hosts)
    code = run.end()
    if code == 0 or 'not all hosts came' not in run.said():
        sys.exit(f'late host: exit code {code}; the run said\n{run.said()}')


FAULTS = {
    'SIGKILL': kill,
    'SIGTERM': terminate,
    'a bit flipped in the newest checkpoint': flip_bit,
    'a file of it cut short': truncate,
    'a file of it missing': remove_file,
    'all of it missing': empty_folder,
    'a full disk, then room again': fill_disk,
    'SIGKILL on a full disk': kill_on_full_disk,
    'a host that stays away': late_host,
}
ON_TMPFS = ('a full disk, then room again', 'SIGKILL on a full disk')


def _some_data(run: Run, dice: random.Random) -> Path:
    """A file of the newest checkpoint that holds arrays or says where they are, the larger the likelier."""
    newest = run.checkpoints / str(run.saved()[-1])
    files = [path for path in newest.rglob('*') if path.parent.name == 'd' or path.name == 'manifest.ocdbt']
    return dice.choices(sorted(files), [path.stat().st_size for path in sorted(files)])[0]


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
    options = ['-t', 'tmpfs', '-o', f'size={TMPFS_MEGABYTES}m', 'tmpfs']
    command = shutil.which('mount')
    mounted = bool(command) and os.geteuid() == 0
    mounted = (
        mounted and subprocess.run([command, *options, directory], stderr=subprocess.DEVNULL).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(['umount', '--lazy', directory], check=True)


def disturb(run: Run, minutes: float, dice: random.Random, kinds: list[str]) -> list[dict[str, Any]]:
    """Faults until the time is up; each with the step that it hit, and where the run went on."""
    until, faults, deck = time.monotonic() + 60 * minutes, [], []
    while True:
        started = time.monotonic()
        run.start(NO_END)
        run.wait_for('a start', run.gets_ahead)
        if faults:
            faults[-1] |= {
                'resumed_at': run.resumed_at(),
                'seconds': time.monotonic() - started,
                'moved': run.said().count('moved to damaged'),
            }
            print(faults[-1], flush=True)
        if time.monotonic() > until:
            run.end(signal.SIGKILL)
            return faults
        time.sleep(dice.uniform(0, 4))
        run.wait_for('two checkpoints', lambda: len(run.saved()) >= 2)
        deck = deck or dice.sample(kinds, len(kinds))  # each kind once before any comes again
        kind = deck.pop()
        FAULTS[kind](run, dice)
        faults.append({'kind': kind, 'step': run.step()})


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path."""
    found = {}
    for item in sorted(path for path in checkpoint.iterdir() if (path / 'manifest.ocdbt').exists()):
        tree = ocp.StandardCheckpointer().restore(item)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            leaf = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            found[f'{item.name}{jax.tree_util.keystr(path)}'] = leaf
    return found


def compare(run: Run, undisturbed: Run, step: int) -> dict[str, bool]:
    """What is equal to the bit, by name."""
    (a, b), (one, two) = (
        [arrays(each.checkpoints / str(step)) for each in (run, undisturbed)],
        [_progress(each, step) for each in (run, undisturbed)],
    )
    same = {name: a[name].tobytes() == b[name].tobytes() for name in a if name in b}
    groups = {name.split('[')[0] for name in a | b}
    equal = {group: all(v for name, v in same.items() if name.startswith(group)) for group in groups}
    lines = [_metrics(each) for each in (run, undisturbed)]
    return dict(sorted(equal.items())) | {
        'the same arrays': a.keys() == b.keys(),
        'position in the data': one == two,
        'metrics': lines[0] == lines[1] and len(lines[0]) >= step // SETTINGS['train.log_every'],
    }


def _progress(run: Run, step: int) -> Any:
    return json.loads((run.checkpoints / str(step) / 'progress' / 'metadata').read_text())


def _metrics(run: Run) -> list[dict[str, Any]]:
    """Without what they say of time and memory."""
    lines = map(json.loads, run.metrics.read_text().splitlines())
    return [{name: value for name, value in line.items() if '/' not in name} for line in lines]


def finish(run: Run, step: int) -> None:
    run.start(step)
    if run.end() != 0:
        sys.exit(f'did not come to step {step}; the run said\n{run.said()}')


def table(result: dict[str, Any]) -> str:
    lines = [
        '# Soak',
        '',
        'What `experiments/soak.py` measured: training on the digits with a fault every few seconds.',
        '',
        f'{result["minutes"]:g} minutes, seed {result["seed"]}, {result["steps"]:,} steps; '
        f'{result["machine"]}, {os.cpu_count()} CPUs, jax {jax.__version__}.',
        '',
        '| fault | times, all recovered | checkpoints moved aside | steps lost, median | largest | '
        'seconds to the next line of metrics, median |',
        '|---|---|---|---|---|---|',
    ]
    for kind in [*FAULTS, 'all']:
        faults = [fault for fault in result['faults'] if kind in (fault['kind'], 'all')]
        if not faults:
            lines.append(f'| {kind} | 0 | | | | |')
            continue
        lost = [max(fault['step'] - fault['resumed_at'], 0) for fault in faults]
        start = statistics.median(fault['seconds'] for fault in faults)
        moved = sum(fault['moved'] for fault in faults)
        lines.append(
            f'| {kind} | {len(faults)} | {moved} | {statistics.median(lost):g} | {max(lost)} | {start:.1f} |'
        )
    if not result['tmpfs']:
        lines += [
            '',
            'No small disk could be mounted (that takes root): faults of a full disk were left out.',
        ]
    lines += ['', f'Equal to the bit, at step {result["steps"]:,}, to a training that nobody disturbed:', '']
    lines += [f'- {name}: {"yes" if equal else "NO"}' for name, equal in result['equal'].items()]
    return '\n'.join(lines) + '\n'


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--minutes', type=float, default=30, help='of faults; the comparison comes after them'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the faults and their moments')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / 'disk') as tmpfs:
        cache = Path(folder) / 'cache'
        run, undisturbed = (Run(Path(folder) / name, cache) for name in ('disk/run', 'undisturbed'))
        run.log = Path(folder) / 'run.log'  # not on the disk that becomes full
        kinds = [kind for kind in FAULTS if tmpfs or kind not in ON_TMPFS]
        faults = disturb(run, args.minutes, random.Random(args.seed), kinds)
        every = SETTINGS['train.checkpoint_every']
        end = (max(run.step(), run.saved()[-1]) // every + 1) * every
        finish(run, end)
        finish(undisturbed, end)
        result = {
            'minutes': args.minutes,
            'seed': args.seed,
            'steps': end,
            'tmpfs': tmpfs,
            'machine': platform.machine(),
            'faults': faults,
            'equal': compare(run, undisturbed, end),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / 'soak.json').write_text(json.dumps(result, indent=1) + '\n')
    (RESULTS / 'soak.md').write_text(table(result))
    print(table(result))
    return 0 if all(result['equal'].values()) else 1


if __name__ == '__main__':
    sys.exit(main())
