"""Training on the digits with a fault every few seconds, compared with an undisturbed training.

    python experiments/soak.py --minutes=30

A tiny run is started repeatedly. Shortly after each start a random fault hits it: SIGKILL or SIGTERM, at any
step or while it samples; SIGKILL and damage to its newest checkpoint; a full disk, with or without SIGKILL;
a start as one of two hosts without the other. Finally it trains to a last step, and so does an undisturbed
run. Parameters, averages, optimizer, position in the data and metrics of the two must be equal to the bit.
The full disk is a tmpfs, which only root can mount; other users skip these faults.

Writes results/soak.md and results/soak.json. The exit code is 1 if anything differs.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from soaking.comparison import compare
from soaking.faults import FAULTS, ON_TMPFS, small_disk
from soaking.run import NO_END, SETTINGS, Run

RESULTS = Path(__file__).parent / 'results'


def disturb(run: Run, minutes: float, dice: random.Random, kinds: list[str]) -> list[dict[str, Any]]:
    """Faults for some minutes, each with the step that it hit and the step from which the run resumed."""
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
            run.kill()
            return faults
        time.sleep(dice.uniform(0, 4))
        run.wait_for('two checkpoints', lambda: len(run.saved()) >= 2)
        deck = deck or dice.sample(kinds, len(kinds))  # each kind once before any comes again
        kind = deck.pop()
        did = FAULTS[kind](run, dice)
        faults.append({'kind': kind, 'did': did, 'step': run.step()})


def finish(run: Run, step: int) -> None:
    run.start(step)
    if run.end() != 0:
        run.fail(f'did not come to step {step}')


def table(result: dict[str, Any]) -> str:
    lines = [
        '# Soak',
        '',
        'Measured by `experiments/soak.py`: training on the digits with a fault every few seconds.',
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
    lines += ['', f'Equal to the bit, at step {result["steps"]:,}, to an undisturbed training:', '']
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
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / 'disk') as tmpfs:
        folder = Path(name)
        run = Run(folder / 'disk' / 'run', folder / 'cache', folder / 'run.log')  # the log may grow
        undisturbed = Run(folder / 'undisturbed', folder / 'cache', folder / 'undisturbed.log')
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
