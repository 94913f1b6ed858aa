"""Measure the memory and time of converting, exporting and loading a released model's weights.

    pip install '.[convert]'
    python experiments/convert_memory.py            # 256x256_diffusion; needs 7 GB on disk and Linux
    python experiments/convert_memory.py 64x64_classifier

The weights are random, in the shapes of the released file. Each step runs in its own process; its memory is
the largest resident memory, including mapped files, minus the memory after all imports.
Writes convert_memory.json and .md (a table) to experiments/results/. Takes a few minutes on 2 CPU cores.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch  # noqa: F401 (imported here, so that it counts among the imports)

from diffusion_jax.commands import convert, export
from diffusion_jax.weights.files import load_weights
from diffusion_jax.weights.reference import reference_shapes
from diffusion_jax.weights.released import RELEASED
from diffusion_jax.weights.torch_files import read_state, write_state

RESULTS = Path(__file__).parent / 'results'
STEPS = {'convert': convert.main, 'export': export.main, 'load': lambda argv: load_weights(argv[1])}


def resident(what: str) -> int:
    """Bytes of this process that are resident now ('VmRSS') or were at most ('VmHWM')."""
    status = Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'{what}:\s*(\d+) kB', status).group(1))


def measure(step: str, arguments: list[str]) -> None:
    """Runs a step in this process and prints seconds and bytes as JSON."""
    Path('/proc/self/clear_refs').write_text('5')  # forgets the most that was resident during imports
    before, start = resident('VmRSS'), time.perf_counter()
    STEPS[step]([step, *arguments])
    seconds = time.perf_counter() - start
    print(json.dumps({'seconds': seconds, 'bytes': resident('VmHWM') - before}))


def run(label: str, size: int, *arguments: str) -> dict:
    """One row of the table, measured in a new process."""
    command = [sys.executable, __file__, '--measure', *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = json.loads(output.splitlines()[-1])
    row = {'step': label, 'seconds': measured['seconds'], 'times_the_file': measured['bytes'] / size}
    print(row, flush=True)
    return row


def same(a: Path, b: Path) -> bool:
    """Whether two files hold the same arrays by the same names in the same order, bit by bit."""
    first, second = read_state(a), read_state(b)
    return list(first) == list(second) and all(
        np.array_equal(first[key].view(np.uint32), second[key].view(np.uint32)) for key in first
    )


def experiment(name: str, folder: Path) -> dict:
    rng = np.random.default_rng(0)
    state = {
        key: rng.standard_normal(shape, dtype=np.float32)
        for key, shape in reference_shapes(RELEASED[name].network).items()
    }
    released, nameless, ours, back = (folder / file for file in (f'{name}.pt', 'model.pt', 'ours', 'back.pt'))
    write_state(released, state)
    del state
    nameless.symlink_to(released)
    size = released.stat().st_size
    rows = [
        run('convert NAME FILE', size, 'convert', name, str(released), '--out', str(ours)),
        run('convert FILE', size, 'convert', str(nameless), '--out', str(ours)),
        run('load', size, 'load', str(ours)),
        run('export', size, 'export', str(ours), '--out', str(back)),
    ]
    versions = {package: version(package) for package in ('jax', 'numpy', 'safetensors', 'torch')}
    return {
        'model': name,
        'file_bytes': size,
        'round_trip_is_exact': same(released, back),
        'machine': platform.machine(),
        'python': platform.python_version(),
        'versions': versions,
        'steps': rows,
    }


def table(result: dict) -> str:
    versions = ', '.join(f'{package} {number}' for package, number in result['versions'].items())
    exact = 'gives every bit back' if result['round_trip_is_exact'] else 'IS NOT EXACT'
    lines = [
        f'{result["model"]}.pt with random weights, {result["file_bytes"] / 1e9:.2f} GB; Python '
        f'{result["python"]}, {versions}. `convert`, then `export` {exact}.',
        '',
        '| step | most memory, times the file | seconds |',
        '|---|---|---|',
        *(
            f'| {row["step"]} | {row["times_the_file"]:.2f} | {row["seconds"]:.0f} |'
            for row in result['steps']
        ),
    ]
    return '\n'.join(lines) + '\n'


def main() -> None:
    if sys.argv[1:2] == ['--measure']:
        measure(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', nargs='?', default='256x256_diffusion')
    with tempfile.TemporaryDirectory() as folder:
        result = experiment(parser.parse_args().name, Path(folder))
    (RESULTS / 'convert_memory.json').write_text(json.dumps(result, indent=2) + '\n')
    (RESULTS / 'convert_memory.md').write_text(table(result))
    print(table(result))


if __name__ == '__main__':
    main()
