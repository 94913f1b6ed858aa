"""Compare the metrics of features with those of torch-fidelity: seconds, memory and values.

    python experiments/metrics_speed.py --python=PATH     # a Python with torch-fidelity 0.4.0; needs Linux
    python experiments/metrics_speed.py --python=PATH --size=2000 --repeats=1 --large=0

Features are random: rectified, 2048 of them, correlated through 64 factors; logits have 1008 classes. Each
metric is computed in a new process, alternating between the packages, from .npy files that are loaded before
the clock starts. Memory is the largest resident memory during the computation, including its inputs, minus
the memory after all imports. Compilation counts. --large=N also computes precision and recall of N samples
against --size, by this package only.
Writes metrics_speed.json and .md (a table) to experiments/results/.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / 'results'
DIM, FACTORS, CLASSES = 2048, 64, 1008
TITLES = {'fid': 'FID', 'pr': 'precision, recall', 'kid': 'KID', 'is': 'Inception score'}
Metric = Callable[..., list[float]]


def ours() -> tuple[dict[str, Metric], str]:
    """Every metric by name, and the versions that matter."""
    import jax

    from diffusion_jax.evaluation.frechet import frechet_distance, moments
    from diffusion_jax.evaluation.inception_score import inception_score
    from diffusion_jax.evaluation.kid import kid
    from diffusion_jax.evaluation.precision_recall import coverage

    jax.devices()
    metrics = {
        'fid': lambda a, b: [frechet_distance(moments(a), moments(b))],
        'pr': lambda a, b: [float(covered.mean()) for covered in coverage(a, b)],
        'kid': lambda a, b: list(kid(a, b)),
        'is': lambda logits: [inception_score(logits, len(logits) // 10)],
    }
    return metrics, f'jax {jax.__version__}, numpy {np.__version__}'


def torch_fidelity() -> tuple[dict[str, Metric], str]:
    """The same of torch-fidelity, with its defaults."""
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    from torch_fidelity.version import __version__

    def fid(a: np.ndarray, b: np.ndarray) -> list[float]:
        statistics = (fid_features_to_statistics(torch.from_numpy(features)) for features in (a, b))
        return list(fid_statistics_to_metric(*statistics, verbose=False).values())

    def of(metric: Callable, **options) -> Metric:
        return lambda *arrays: list(metric(*map(torch.from_numpy, arrays), **options).values())

    metrics = {
        'fid': fid,
        'pr': of(prc_features_to_metric, verbose=False),
        'kid': of(kid_features_to_metric, verbose=False),
        'is': of(isc_features_to_metric, shuffle=False),
    }
    return metrics, f'torch-fidelity {__version__}, torch {torch.__version__}, numpy {np.__version__}'


PACKAGES = {'ours': ours, 'torch-fidelity': torch_fidelity}


def resident(what: str) -> int:
    """Bytes of this process that are resident now ('VmRSS') or were at most ('VmHWM')."""
    status = Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'{what}:\s*(\d+) kB', status).group(1))


def measure(package: str, metric: str, files: list[str]) -> None:
    """Computes one metric in this process and prints what came of it as JSON."""
    metrics, versions = PACKAGES[package]()
    before = resident('VmRSS')
    inputs = [np.load(file) for file in files]
    Path('/proc/self/clear_refs').write_text('5')  # forgets the most that was resident during imports
    start = time.perf_counter()
    values = metrics[metric](*inputs)
    seconds = time.perf_counter() - start
    found = {'seconds': seconds, 'bytes': resident('VmHWM') - before, 'values': values, 'versions': versions}
    print(json.dumps(found))


def run(python: str, package: str, metric: str, files: list[Path]) -> dict:
    command = [python, __file__, '--measure', package, metric, *map(str, files)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    print(package, metric, found, flush=True)
    return found


def median(runs: list[dict]) -> dict:
    return {key: statistics.median(found[key] for found in runs) for key in ('seconds', 'bytes')} | {
        'values': runs[0]['values'],
        'versions': runs[0]['versions'],
    }


def draw(path: Path, count: int, seed: int, scale: float) -> Path:
    """Features of one set, float32 [count, DIM], to a file."""
    mixing = np.random.default_rng(0).standard_normal((FACTORS, DIM), dtype=np.float32) / FACTORS**0.5
    rng = np.random.default_rng(seed)
    features = scale * rng.standard_normal((count, FACTORS), dtype=np.float32) @ mixing
    features += 0.3 * (rng.standard_normal((count, DIM), dtype=np.float32) + 1)
    np.save(path, np.maximum(features, 0))
    return path


def draw_logits(path: Path, count: int) -> Path:
    np.save(path, 2 * np.random.default_rng(3).standard_normal((count, CLASSES), dtype=np.float32))
    return path


def experiment(folder: Path, python: str, size: int, large: int, repeats: int) -> dict:
    pair = [draw(folder / 'samples.npy', size, 1, 0.95), draw(folder / 'reference.npy', size, 2, 1.0)]
    logits = draw_logits(folder / 'logits.npy', size)
    rows = {}
    for metric in TITLES:
        files = [logits] if metric == 'is' else pair
        runs: dict[str, list[dict]] = {package: [] for package in PACKAGES}
        for _ in range(repeats):
            for package, interpreter in (('ours', sys.executable), ('torch-fidelity', python)):
                runs[package].append(run(interpreter, package, metric, files))
        rows[metric] = {package: median(found) for package, found in runs.items()}
    result = {'size': size, 'repeats': repeats, 'machine': machine(), 'metrics': rows}
    if large:
        files = [draw(folder / 'large.npy', large, 4, 0.95), pair[1]]
        result['large'] = {'samples': large} | run(sys.executable, 'ours', 'pr', files)
    return result


def machine() -> str:
    model = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    name = model.group(1) if model else platform.machine()
    return f'{name}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}'


def table(result: dict) -> str:
    first = result['metrics']['fid']
    lines = [
        f'{result["size"]:,} samples and as many references, {DIM} features, {CLASSES} classes, float32; '
        f'{result["machine"]}; medians of {result["repeats"]}, each in a new process, compilation included.',
        '',
        f'Ours: {first["ours"]["versions"]}. Theirs: {first["torch-fidelity"]["versions"]}.',
        '',
        '| metric | seconds, ours | theirs | times as fast | GB, ours | theirs | value, ours | theirs |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for metric, row in result['metrics'].items():
        a, b = row['ours'], row['torch-fidelity']
        cells = [TITLES[metric], f'{a["seconds"]:.1f}', f'{b["seconds"]:.1f}']
        cells += [f'{b["seconds"] / a["seconds"]:.1f}', f'{a["bytes"] / 1e9:.2f}', f'{b["bytes"] / 1e9:.2f}']
        lines.append(f'| {" | ".join([*cells, values(metric, a), values(metric, b)])} |')
    lines += [
        '',
        'KID: ours is the estimate from all pairs ± its standard error, theirs the mean of 100 subsets of '
        '1,000 ± the standard deviation of subsets. Of precision and recall they hold all distances at once.',
    ]
    if 'large' in result:
        large = result['large']
        lines += [
            '',
            f'Precision and recall of {large["samples"]:,} samples against {result["size"]:,}: '
            f'{large["seconds"]:.0f} s and {large["bytes"] / 1e9:.2f} GB.',
        ]
    return '\n'.join(lines) + '\n'


def values(metric: str, measured: dict) -> str:
    joined = ' ± ' if metric == 'kid' else ', '
    shown = measured['values'][: 1 if metric == 'is' else 2]  # theirs have more to say
    return joined.join(f'{value:.7g}' for value in shown)


def main() -> None:
    if sys.argv[1:2] == ['--measure']:
        measure(sys.argv[2], sys.argv[3], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--python', required=True)
    parser.add_argument('--size', type=int, default=10_000)
    parser.add_argument('--large', type=int, default=50_000)
    parser.add_argument('--repeats', type=int, default=3)
    arguments = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        result = experiment(Path(folder), **arguments)
    (RESULTS / 'metrics_speed.json').write_text(json.dumps(result, indent=2) + '\n')
    (RESULTS / 'metrics_speed.md').write_text(table(result))
    print(table(result))


if __name__ == '__main__':
    main()
