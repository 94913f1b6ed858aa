"""The run under test: a tiny training on the digits, in a separate process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SETTINGS = {
    'unet.channel_mult': '(1,)',
    'unet.attention_resolutions': '()',
    'train.batch_size': 16,
    'train.learning_rate_schedule': 'constant',
    'train.timestep_sampler': 'loss_second_moment',
    'train.log_every': 10,
    'train.checkpoint_every': 50,
    # Samples come between two checkpoints, in batches between which they can be stopped.
    'train.sample_every': 80,
    'train.evaluate_every': 80,
    'train.evaluate_samples': 48,
    'sample.num_samples': 16,
    'sample.batch_size': 16,
}
PATIENCE = 300  # seconds until a start without progress is a failure
NO_END = 10**8  # steps


class Run:
    """The program in one working directory: the process that trains, and what it has left there."""

    def __init__(self, workdir: Path, cache: Path, log: Path):
        self.workdir, self.log = workdir, log
        self.checkpoints = workdir / 'diffusion' / 'checkpoints'
        self.metrics = workdir / 'diffusion' / 'metrics.jsonl'
        # One device and cached programs, so that a start takes little time.
        self.environment = os.environ | {
            'PYTHONPATH': str(ROOT),
            'JAX_PLATFORMS': 'cpu',
            'JAX_NUM_CPU_DEVICES': '1',
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

    def end(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE * 10)

    def kill(self) -> None:
        """By SIGKILL; a run that had ended before is an error."""
        self.process.send_signal(signal.SIGKILL)
        if self.end() != -signal.SIGKILL:
            self.fail('had ended before it was killed')

    def fail(self, what: str) -> None:
        sys.exit(f'{what}; the run said\n{self.said()}')

    def said(self) -> str:
        return self.log.read_text()

    def last_written(self) -> int:
        return self.metrics.stat().st_mtime_ns if self.metrics.exists() else 0

    def gets_ahead(self) -> bool:
        return self.last_written() > self.written and self.step() > self.resumed_at()

    def last_lines(self) -> list[dict[str, Any]]:
        """The last whole lines of metrics."""
        lines = self.metrics.read_bytes().split(b'\n')[:-1] if self.metrics.exists() else []
        return [json.loads(line) for line in lines[-3:]]

    def step(self) -> int:
        return max((line['step'] for line in self.last_lines()), default=0)

    def is_sampling(self) -> bool:
        """Whether a grid was written and its step, whose samples are then evaluated, is not logged yet."""
        grids = [path.stat().st_mtime_ns for path in (self.workdir / 'diffusion' / 'grids').glob('*.png')]
        return self.written < self.last_written() < max(grids, default=0)

    def resumed_at(self) -> int:
        match = re.search(r'diffusion: resuming from step (\d+)', self.said())
        return int(match.group(1)) if match else 0

    def saved(self) -> list[int]:
        names = [path.name for path in self.checkpoints.iterdir()] if self.checkpoints.is_dir() else []
        return sorted(int(name) for name in names if name.isdigit())

    def progress(self, step: int) -> dict[str, Any]:
        """The progress in a checkpoint."""
        return json.loads((self.checkpoints / str(step) / 'progress' / 'metadata').read_text())

    def results(self) -> list[dict[str, Any]]:
        """What is logged, without what it cost (names with a slash) and lines that say nothing else."""
        lines = map(json.loads, self.metrics.read_text().splitlines())
        named = ({name: value for name, value in line.items() if '/' not in name} for line in lines)
        return [line for line in named if line.keys() != {'step'}]

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until or self.process.poll() is not None:
                self.fail(f'{what}: waited in vain')
            time.sleep(0.02)
