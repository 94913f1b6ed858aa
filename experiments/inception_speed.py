"""Compare the speed of Inception v3 with torch-fidelity's extractor, on the same CPU and images.

    python -m experiments.inception_speed --python=/path/to/python   # one that has torch and torch-fidelity

Weights follow the rule of tests/parity/inception.py; images of 256x256 are random. Both take uint8 images,
resize them as TensorFlow does, and return pool features and logits without a bias. They alternate, each time
in a new process; the first call, which compiles ours, is not counted.
Writes inception_speed.json and .md (a table) to experiments/results/. Takes some minutes on 2 CPU cores.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / 'results'
BATCH_SIZES = (8, 32)
TURNS, CALLS = 3, 2  # each turn is CALLS calls for every batch size


def prepare_ours(state: dict[str, np.ndarray]):
    """Ours: a function of NHWC images to features and logits, and versions."""
    import jax

    from diffusion_jax.evaluation.inception import network
    from diffusion_jax.evaluation.inception.sources import params_from_state

    params = jax.device_put(params_from_state(state))

    @jax.jit
    def extract(params, images):
        pool = network.apply(params, images).pool
        return pool, network.logits(params, pool)

    return lambda images: [np.asarray(a) for a in extract(params, images)], ('jax', 'flax')


def prepare_theirs(state: dict[str, np.ndarray]):
    """torch-fidelity's extractor, likewise."""
    import torch

    # The package imports torchvision; what is measured does not need it.
    package = types.ModuleType('torch_fidelity')
    package.__path__ = list(importlib.util.find_spec('torch_fidelity').submodule_search_locations)
    sys.modules['torch_fidelity'] = package
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        state = {**state, 'fc.bias': np.zeros(1008, np.float32)}  # asked for, not used
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, file)
        file.flush()
        extractor = FeatureExtractorInceptionV3('', ['2048', 'logits_unbiased'], file.name)

    @torch.inference_mode()
    def extract(images):
        planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return [a.numpy() for a in extractor(planes)]

    return extract, ('torch', 'torch-fidelity')


PREPARE = {'ours': prepare_ours, 'torch-fidelity': prepare_theirs}


def measure(name: str, folder: Path) -> None:
    """One turn, in this process: prints the seconds of every call as JSON and keeps the results."""
    images = np.load(folder / 'images.npy')
    with np.load(folder / 'state.npz') as file:
        extract, packages = PREPARE[name](dict(file))
    seconds, first = {}, {}
    for batch_size in BATCH_SIZES:
        times = []
        for _ in range(1 + CALLS):
            start = time.perf_counter()
            pool, logits = extract(images[:batch_size])
            times.append(time.perf_counter() - start)
        first[batch_size], *seconds[batch_size] = times
    np.savez(folder / f'{name}.npz', pool=pool, logits=logits)
    versions = {package: version(package) for package in packages}
    print(json.dumps({'seconds': seconds, 'first': first, 'versions': versions}))


def experiment(python: str, folder: Path) -> dict:
    from tests.parity.inception import state_by_rule

    images = np.random.default_rng(0).integers(0, 256, (max(BATCH_SIZES), 256, 256, 3), dtype=np.uint8)
    np.save(folder / 'images.npy', images)
    np.savez(folder / 'state.npz', **state_by_rule(0))
    turns = {name: [] for name in PREPARE}
    for _ in range(TURNS):
        for name, interpreter in zip(PREPARE, (sys.executable, python), strict=True):
            command = [interpreter, '-m', 'experiments.inception_speed', '--measure', name, str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            turns[name].append(json.loads(output.splitlines()[-1]) | {'load': os.getloadavg()[0]})
            print(name, turns[name][-1], flush=True)
    rates = {
        name: {
            batch_size: [batch_size / t for turn in found for t in turn['seconds'][str(batch_size)]]
            for batch_size in BATCH_SIZES
        }
        for name, found in turns.items()
    }
    return {
        'machine': f'{platform.machine()}, {os.cpu_count()} cores ({processor()})',
        'date': time.strftime('%d %B %Y'),
        'versions': {'python': platform.python_version()}
        | {package: number for found in turns.values() for package, number in found[0]['versions'].items()},
        'images_per_second': rates,
        'first_call_seconds': {
            name: statistics.median(turn['first'][str(BATCH_SIZES[0])] for turn in found)
            for name, found in turns.items()
        },
        'load_average': [turn['load'] for found in turns.values() for turn in found],
        'relative_differences': differences(folder),
    }


def processor() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':')[1].strip()
    return platform.processor()


def differences(folder: Path) -> dict[str, float]:
    """The norm of ours − theirs as a share of theirs."""
    ours, theirs = (np.load(folder / f'{name}.npz') for name in PREPARE)
    return {
        name: float(np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name]))
        for name in ('pool', 'logits')
    }


def table(result: dict) -> str:
    versions = ', '.join(f'{package} {number}' for package, number in result['versions'].items())
    apart = ', '.join(f'{name} {value:.0e}' for name, value in result['relative_differences'].items())
    first = ', '.join(f'{name} {value:.1f} s' for name, value in result['first_call_seconds'].items())
    lines = [
        f'{result["machine"]}, {result["date"]}; {versions}. Images of 256x256 pixels a second, medians of '
        f'{TURNS * CALLS} calls in {TURNS} processes that took turns (least to most).',
        '',
        '| batch | ours | torch-fidelity | ratio |',
        '|---|---|---|---|',
    ]
    for batch_size in BATCH_SIZES:
        ours, theirs = (result['images_per_second'][name][batch_size] for name in PREPARE)
        ratio = statistics.median(ours) / statistics.median(theirs)
        lines.append(f'| {batch_size} | {spread(ours)} | {spread(theirs)} | {ratio:.2f} |')
    load = f'{min(result["load_average"]):.1f} to {max(result["load_average"]):.1f}'
    lines += [
        '',
        f'First call: {first}. Relative differences of the results: {apart}. Load average {load}.',
        '',
    ]
    return '\n'.join(lines)


def spread(values: list[float]) -> str:
    return f'{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})'


def main() -> None:
    if sys.argv[1:2] == ['--measure']:
        measure(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--python', required=True, help='an interpreter with torch and torch-fidelity')
    with tempfile.TemporaryDirectory() as folder:
        result = experiment(parser.parse_args().python, Path(folder))
    (RESULTS / 'inception_speed.json').write_text(json.dumps(result, indent=2) + '\n')
    (RESULTS / 'inception_speed.md').write_text(table(result))
    print(table(result))


if __name__ == '__main__':
    main()
