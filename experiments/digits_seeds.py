"""Run the digits' recipe over seeds: agreement, Fréchet distances, time and memory of the program.

    python experiments/digits_seeds.py                                     # a few minutes for each of 3 seeds
    python experiments/digits_seeds.py --config.diffusion.prediction=eps   # another recipe

Prints a table.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from digits_acceptance import measure

ROOT = Path(__file__).parent.parent
SEEDS = (0, 1, 2)
COLUMNS = (
    'label_agreement',
    'unguided_label_agreement',
    'frechet_distance',
    'unguided_frechet_distance',
    'real_frechet_distance',
    'precision',
    'recall',
)


def run(seed: int, workdir: str) -> dict[str, float]:
    """The evaluation of one seed, with `minutes` and `gigabytes` (largest resident memory)."""
    command = [sys.executable, '-m', 'diffusion_jax.main', f'--config={ROOT / "configs" / "digits.py"}']
    command += [
        f'--workdir={workdir}',
        f'--config.seed={seed}',
        f'--config.sample.seed={seed}',
        *sys.argv[1:],
    ]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f'seed {seed} failed')
    minutes = (time.monotonic() - start) / 60
    result = json.loads((Path(workdir) / 'evaluation.json').read_text()) | measure(Path(workdir))
    kilobytes = usage.ru_maxrss if sys.platform == 'linux' else usage.ru_maxrss / 1024
    return result | {'minutes': minutes, 'gigabytes': kilobytes / 1024**2}


def main() -> None:
    rows = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as workdir:
            rows[seed] = run(seed, workdir)
    columns = (*COLUMNS, 'minutes', 'gigabytes')
    lines = ['| seed | ' + ' | '.join(name.replace('_', ' ') for name in columns) + ' |']
    lines.append('|' + '---|' * (len(columns) + 1))
    rows['median'] = {name: statistics.median(row[name] for row in rows.values()) for name in columns}
    for seed, row in rows.items():
        lines.append(f'| {seed} | ' + ' | '.join(f'{row[name]:.3f}' for name in columns) + ' |')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
