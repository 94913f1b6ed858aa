"""Compare our guided and training steps with those of the authors' code, on one GPU (results/gpu.md).

    python experiments/compare_authors.py ../guided-diffusion --out runs/comparison.json
    python experiments/compare_authors.py ../guided-diffusion --out runs/comparison.json --only 'train'

The argument is a checkout of https://github.com/openai/guided-diffusion; PyTorch is needed, by default in the
same Python. Ours are the config's defaults and both networks in bfloat16. Theirs have the flags of their
released models, whose classifier is in float32; then float16 throughout; and that by torch.compile.

Every program runs alone in a process of its own, for at most --minutes. Rows that --out has already are not
measured again; it is written after every row. Prints the tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusion_jax.workdir import write_json

HERE = Path(__file__).parent
BATCH_SIZES = {'imagenet256': 16, 'imagenet64': 64}
PARTS = ('guided_step', 'train')
OURS = {'defaults': [], 'bfloat16': ['--dtype=bfloat16']}
THEIRS = {
    'released flags': {'half': False, 'compile': False},
    'float16': {'half': True, 'compile': False},
    'float16, torch.compile': {'half': True, 'compile': True},
}
# The flags of the authors' README.
SHARED = {
    'attention_resolutions': '32,16,8',
    'class_cond': True,
    'diffusion_steps': 1000,
    'learn_sigma': True,
    'num_head_channels': 64,
    'resblock_updown': True,
    'use_scale_shift_norm': True,
    'timestep_respacing': '250',
}
FLAGS = {
    'imagenet256': {'image_size': 256, 'noise_schedule': 'linear', 'num_channels': 256, 'num_res_blocks': 2},
    'imagenet64': {
        'image_size': 64,
        'noise_schedule': 'cosine',
        'num_channels': 192,
        'num_res_blocks': 3,
        'dropout': 0.1,
        'use_new_attention_order': True,
    },
}
CLASSIFIER = {
    'imagenet256': {'image_size': 256},
    'imagenet64': {'image_size': 64, 'classifier_depth': 4},
}


def ours(config: str, part: str, program: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row of benchmark.py."""
    with tempfile.NamedTemporaryFile(suffix='.json') as file:
        arguments = [f'configs/{config}.py', f'--parts={part}', f'--batch-size={BATCH_SIZES[config]}']
        arguments += ['--profile', f'--repeats={options.repeats}', f'--out={file.name}', *OURS[program]]
        run([sys.executable, HERE / 'benchmark.py', *arguments], options.minutes)
        return json.loads(Path(file.name).read_text())['rows'][0]


def theirs(config: str, part: str, program: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same numbers of the authors' code."""
    job = {
        'path': str(options.checkout.resolve()),
        'flags': SHARED | FLAGS[config],
        'classifier': CLASSIFIER[config],
        'batch_size': BATCH_SIZES[config],
        'part': part,
        'repeats': options.repeats,
    }
    script = HERE / 'benchmarking' / 'authors.py'
    output = run([options.torch_python, script, json.dumps(job | THEIRS[program])], options.minutes)
    row = json.loads(output.splitlines()[-1])
    seconds = row.pop('seconds')
    row |= {'milliseconds_min': 1000 * min(seconds), 'milliseconds_max': 1000 * max(seconds)}
    return row | {'milliseconds': 1000 * statistics.median(seconds)}


def run(command: list[Any], minutes: float) -> str:
    """Its output; RuntimeError with the last line of stderr if it fails or takes too long."""
    try:
        done = subprocess.run(
            command, cwd=HERE.parent, capture_output=True, text=True, timeout=60 * minutes, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f'not finished in {minutes:g} minutes') from error
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ['no message'])[-1][:200])
    return done.stdout


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The times of every program, and how many times ours they are; then ours by kind of kernel."""
    lines = ['| program | ms | memory, GB | theirs / ours |', '|---|---|---|---|']
    kinds = []
    for name, row in rows.items():
        if 'error' in row:
            lines.append(f'| {name} | {row["error"]} | | |')
            continue
        reference = rows.get(f'{name.partition(":")[0]}: ours, bfloat16', {}).get('milliseconds')
        ratio = f'{row["milliseconds"] / reference:.2f}' if reference and ': authors' in name else ''
        memory = f'{row["memory_bytes"] / 1e9:.1f}' if row['memory_bytes'] else ''
        lines.append(f'| {name} | {row["milliseconds"]:.1f} | {memory} | {ratio} |')
        for kind, milliseconds in row.get('profile', {}).get('kinds', {}).items():
            kinds.append(f'| {name} | {kind} | {milliseconds:.1f} |')
    return '\n'.join([*lines, '', '| program | kind of kernel | ms |', '|---|---|---|', *kinds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('checkout', type=Path, help='of openai/guided-diffusion')
    parser.add_argument('--torch-python', default=sys.executable, help='a Python that has PyTorch')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.json', help='takes all numbers')
    parser.add_argument('--only', default='', help="part of a row's name, such as 'imagenet64 train: ours'")
    parser.add_argument('--repeats', type=int, default=10, help='calls of each program that are timed')
    parser.add_argument('--minutes', type=float, default=15, help='for each program')
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    for part in PARTS:
        for config in BATCH_SIZES:
            for measure, side, programs in ((ours, 'ours', OURS), (theirs, 'authors', THEIRS)):
                for program in programs:
                    name = f'{config} {part}: {side}, {program}'
                    if name in rows or options.only not in name:
                        continue
                    print(name, file=sys.stderr, flush=True)
                    try:
                        rows[name] = measure(config, part, program, options)
                    except RuntimeError as error:
                        rows[name] = {'error': str(error)}
                    write_json(options.out, rows)
    print(markdown(rows))


if __name__ == '__main__':
    main()
