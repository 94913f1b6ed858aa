"""Compare the speed of the data pipeline with a PyTorch DataLoader and the transform of the authors' release.

    python experiments/data_speed.py --torch-python=PATH    # a Python that has torch and Pillow

Both read the same JPEG files of 500×375 pixels, about the mean of ImageNet's, made from photographs that
scikit-image and scikit-learn contain, and crop them to 64, 256 and 512 pixels with 0, 1 and 2 workers. Ours
also reads them as `diffusion-jax prepare` stores them, and at 256 pixels with processes in place of threads.
Each side is one process; they take turns, and a ratio is the median of those of single rounds. Also measured:
what lossless formats of a prepared image cost.

Writes data_speed.json and .md to experiments/results/. Takes 4 minutes on 2 CPU cores.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from loading.sides import BATCH, SIDES, authors_crop
from loading.tables import table
from PIL import Image

RESULTS = Path(__file__).parent / 'results'
SIZES, WORKERS = (64, 256, 512), (0, 1, 2)
NUM_IMAGES, ROUNDS, SECONDS = 120, 5, 0.6
LINKS = 5  # to each file: Grain's shuffle takes 0.24 ms an image of 120, 0.06 of 500, 0.004 of a million


# One process a side, which answers one line with one line.


def serve(name: str, folder: Path) -> None:
    """For each line {kind, size, workers} of stdin: images per second, and CPU milliseconds of one."""
    make, packages = SIDES[name]
    versions = {package: version(package) for package in (*packages, 'numpy', 'pillow')}
    print(json.dumps({'python': platform.python_version()} | versions), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        loaded = make(folder, **request)
        for _ in range(request['workers'] + 1):  # until all workers have started
            next(loaded)
        count, start, cpu = 0, time.perf_counter(), time.process_time()
        while (seconds := time.perf_counter() - start) < SECONDS or count < 2:
            next(loaded)
            count += 1
        cpu = time.process_time() - cpu
        if hasattr(loaded, 'close'):
            loaded.close()
        del loaded  # which ends a DataLoader's workers
        print(json.dumps([count * BATCH / seconds, 1000 * cpu / (count * BATCH)]), flush=True)


class Side:
    """The process of one side."""

    def __init__(self, python: str, name: str, folder: Path):
        command = [python, __file__, f'--serve={name}', f'--folder={folder}']
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def measure(self, kind: str, size: int, workers: int) -> tuple[float, float]:
        """See `serve`."""
        request = json.dumps({'kind': kind, 'size': size, 'workers': workers})
        print(request, file=self.process.stdin, flush=True)
        rate, cpu = self._answer()
        return rate, cpu

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f'the process of {self.process.args} ended')
        return json.loads(line)


# The experiment.


def write_photographs(folder: Path) -> int:
    """Writes JPEG files to folder/jpeg/train/<class>; returns their mean size in bytes."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photographs = [data.astronaut(), data.coffee(), data.rocket()]
    photographs += [load_sample_image(name) for name in ('china.jpg', 'flower.jpg')]
    rng, sizes = np.random.default_rng(0), []
    for i in range(NUM_IMAGES):
        picture = Image.fromarray(photographs[i % len(photographs)])
        height = int(min(picture.height, picture.width * 3 / 4, 400) * rng.uniform(0.8, 1))
        width = height * 4 // 3
        left, top = (int(rng.integers(n - m + 1)) for n, m in zip(picture.size, (width, height), strict=True))
        path = folder / 'jpeg' / 'train' / str(i % len(photographs)) / f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        box = (left, top, left + width, top + height)
        picture.resize((500, 375), Image.Resampling.LANCZOS, box=box).save(path, quality=95)
        sizes.append(path.stat().st_size)
        for link in range(1, LINKS):
            os.link(path, path.with_stem(f'{i}_{link}'))
    return round(statistics.mean(sizes))


def prepare(folder: Path) -> None:
    from diffusion_jax.commands.prepare import main

    for size in SIZES:
        main(['prepare', f'{folder}/jpeg', f'--out={folder}/prepared{size}', f'--size={size}'])


def measure(sides: dict[str, Side]) -> list[dict[str, Any]]:
    """Rows of size and workers: of each kind the rates of all rounds, their median and that of the ratios."""
    rows = [
        {'size': size, 'workers': n, 'rates': defaultdict(list), 'cpu': defaultdict(list)}
        for size in SIZES
        for n in WORKERS
    ]
    for round_ in range(ROUNDS):
        for row in rows:
            kinds = ['torch', 'jpeg', 'prepared']
            if row['size'] == 256 and row['workers'] and round_ < 3:  # processes take seconds to start
                kinds.append('processes')
            for kind in kinds if round_ % 2 else kinds[::-1]:
                side = sides['torch' if kind == 'torch' else 'ours']
                rate, cpu = side.measure(kind, row['size'], row['workers'])
                row['rates'][kind].append(rate)
                row['cpu'][kind].append(cpu)
            print(round_, row['size'], row['workers'], {k: f'{v[-1]:.0f}' for k, v in row['rates'].items()})
    for row in rows:
        theirs = row['rates']['torch']
        row['medians'] = {kind: statistics.median(rates) for kind, rates in row['rates'].items()}
        row['cpu_ms'] = {kind: statistics.median(times) for kind, times in row.pop('cpu').items()}
        row['ratios'] = {
            kind: statistics.median(a / b for a, b in zip(rates, theirs, strict=False))
            for kind, rates in row['rates'].items()
        }
    return rows


def experiment(torch_python: str, folder: Path) -> dict[str, Any]:
    from loading.formats import compare_formats  # with packages that the other Python may lack

    begin, loads = time.time(), [os.getloadavg()[0]]
    mean_bytes = write_photographs(folder)
    prepare(folder)
    paths = sorted((folder / 'jpeg').rglob('*.jpg'))
    formats = compare_formats([authors_crop(Image.open(path).convert('RGB'), 256) for path in paths[::LINKS]])
    sides = {
        name: Side(python, name, folder)
        for name, python in (('ours', sys.executable), ('torch', torch_python))
    }
    rows = measure(sides)
    versions = {name: side.versions for name, side in sides.items()}
    for side in sides.values():
        side.close()
    return {
        'machine': f'{platform.machine()}, {os.cpu_count()} cores ({processor()})',
        'date': time.strftime('%d %B %Y'),
        'versions': versions,
        'load_average': [*loads, os.getloadavg()[0]],
        'seconds': time.time() - begin,
        'jpeg_bytes': mean_bytes,
        'rounds': ROUNDS,
        'batch': BATCH,
        'rows': rows,
        'formats': formats,
    }


def processor() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':')[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--torch-python', default=sys.executable, help='a Python that has PyTorch')
    parser.add_argument('--serve', choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = experiment(options.torch_python, Path(folder))
    (RESULTS / 'data_speed.json').write_text(json.dumps(result, indent=2) + '\n')
    (RESULTS / 'data_speed.md').write_text(table(result))
    print(table(result))


if __name__ == '__main__':
    main()
