"""Compare the speed of the data pipeline with a PyTorch DataLoader and the transform of the authors' release.

    python experiments/data_speed.py --torch-python=PATH    # a Python that has torch and Pillow

Both read the same JPEG files of 500×375 pixels, about the mean of ImageNet's, made from photographs that
scikit-image and scikit-learn contain, and crop them to 64, 256 and 512 pixels with 0, 1 and 2 workers. Ours
also reads them as `diffusion-jax prepare` stores them, and at 256 pixels with processes in place of threads.
Each side is one process; they take turns, and a ratio is the median of those of single rounds. Also measured:
what lossless formats of a prepared image cost.

Writes data_speed.json and .md to experiments/results/. Takes 4 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RESULTS = Path(__file__).parent / 'results'
SIZES, WORKERS = (64, 256, 512), (0, 1, 2)
NUM_IMAGES, BATCH, ROUNDS, SECONDS = 120, 16, 5, 0.7
NEEDED = {64: 300, 256: 53}  # images/s that one H100 trains in bfloat16 (gpu.md)

Batches = Iterator[Any]


# Ours.


def our_batches(folder: Path, kind: str, size: int, workers: int) -> tuple[Batches, Callable[[], None]]:
    """Batches without end, and what closes them; kind: 'jpeg', 'prepared' or 'processes'."""
    from diffusion_jax.data.config import DataConfig
    from diffusion_jax.data.pipeline import batches
    from diffusion_jax.data.sources import make_source
    from diffusion_jax.data.transforms import make_transform

    name, path = ('prepared', f'prepared{size}') if kind == 'prepared' else ('folder', 'jpeg')
    config = DataConfig(name, path=str(folder / path), image_size=(size, size), image_channels=3)
    source, transform = make_source(config, 'train'), make_transform(config)
    if kind == 'processes':
        loaded = iter(in_processes(source, transform, workers))
    else:
        loaded = batches(source, BATCH, seed=0, transform=transform, num_workers=workers)
    return loaded, loaded.close


def in_processes(source: Any, transform: Any, workers: int) -> Any:
    import grain
    from absl import flags

    from diffusion_jax.data.pipeline import load_batch

    flags.FLAGS.mark_as_parsed()  # which Grain's processes ask for
    order = grain.MapDataset.range(len(source)).seed(0).shuffle().repeat().batch(BATCH)
    loaded = order.map(lambda indices: load_batch(source, indices, transform=transform))
    without_threads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=workers)
    return loaded.to_iter_dataset(without_threads).mp_prefetch(options)


# PyTorch.


def torch_batches(folder: Path, kind: str, size: int, workers: int) -> tuple[Batches, Callable[[], None]]:
    """The same from a DataLoader; pixels are float32 in [−1, 1], channels first, as the release has them."""
    from torch.utils.data import DataLoader, Dataset, RandomSampler

    class Photographs(Dataset):
        def __init__(self) -> None:
            self.paths = sorted((folder / 'jpeg').rglob('*.jpg'))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            with Image.open(self.paths[index]) as file:
                pixels = authors_crop(file.convert('RGB'), size)
            scaled = pixels.astype(np.float32) / 127.5 - 1
            return scaled.transpose(2, 0, 1), {'y': np.array(0, np.int64)}

    photographs = Photographs()
    endless = RandomSampler(photographs, replacement=True, num_samples=10**9)
    loader = DataLoader(photographs, BATCH, sampler=endless, num_workers=workers, drop_last=True)
    loaded = iter(loader)
    return loaded, getattr(loaded, '_shutdown_workers', lambda: None)


def authors_crop(picture: Image.Image, size: int) -> np.ndarray:
    """The centre: halved by box filter while the shorter side is at least 2·size, then resized by bicubic."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    resized = (round(picture.width * scale), round(picture.height * scale))
    pixels = np.array(picture.resize(resized, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


SIDES = {'ours': (our_batches, ('grain', 'array-record')), 'torch': (torch_batches, ('torch',))}


# One process a side, which answers one line with one line.


def serve(name: str, folder: Path) -> None:
    """For each line {kind, size, workers} of stdin: the images per second."""
    make, packages = SIDES[name]
    versions = {package: version(package) for package in (*packages, 'numpy', 'pillow')}
    print(json.dumps({'python': platform.python_version()} | versions), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        loaded, close = make(folder, **request)
        for _ in range(request['workers'] + 1):  # until all workers have started
            next(loaded)
        count, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < SECONDS or count < 2:
            next(loaded)
            count += 1
        close()
        print(json.dumps(count * BATCH / seconds), flush=True)


class Side:
    """The process of one side."""

    def __init__(self, python: str, name: str, folder: Path):
        command = [python, __file__, f'--serve={name}', f'--folder={folder}']
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def rate(self, kind: str, size: int, workers: int) -> float:
        print(
            json.dumps({'kind': kind, 'size': size, 'workers': workers}), file=self.process.stdin, flush=True
        )
        return self._answer()

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
    return round(statistics.mean(sizes))


def prepare(folder: Path) -> None:
    from diffusion_jax.commands.prepare import main

    for size in SIZES:
        main(['prepare', f'{folder}/jpeg', f'--out={folder}/prepared{size}', f'--size={size}'])


def measure(sides: dict[str, Side]) -> list[dict[str, Any]]:
    """Rows of size, workers, and the rates of every round by kind."""
    rows = [{'size': size, 'workers': n, 'rates': {}} for size in SIZES for n in WORKERS]
    for round_ in range(ROUNDS):
        for row in rows:
            turns = [('torch', 'jpeg'), ('ours', 'jpeg'), ('ours', 'prepared')]
            if row['size'] == 256 and row['workers'] and round_ < 3:  # processes take seconds to start
                turns.append(('ours', 'processes'))
            for name, kind in turns if round_ % 2 else turns[::-1]:
                label = 'torch' if name == 'torch' else kind
                rate = sides[name].rate(kind, row['size'], row['workers'])
                row['rates'].setdefault(label, []).append(rate)
            print(round_, row['size'], row['workers'], {k: f'{v[-1]:.0f}' for k, v in row['rates'].items()})
    for row in rows:
        row['ratios'] = {
            kind: statistics.median(a / b for a, b in zip(rates, row['rates']['torch'], strict=False))
            for kind, rates in row['rates'].items()
            if kind != 'torch'
        }
        row['medians'] = {kind: statistics.median(rates) for kind, rates in row['rates'].items()}
    return rows


def experiment(torch_python: str, folder: Path) -> dict[str, Any]:
    from lossless_formats import compare_formats  # with packages that the other Python may lack

    begin, loads = time.time(), [os.getloadavg()[0]]
    mean_bytes = write_photographs(folder)
    prepare(folder)
    paths = sorted((folder / 'jpeg').rglob('*.jpg'))
    formats = compare_formats([authors_crop(Image.open(path).convert('RGB'), 256) for path in paths])
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
        'rows': rows,
        'formats': formats,
    }


def processor() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':')[1].strip()
    return platform.processor()


def table(result: dict[str, Any]) -> str:
    versions = '; '.join(
        f'{side}: ' + ', '.join(f'{package} {number}' for package, number in found.items())
        for side, found in result['versions'].items()
    )
    loads = ' to '.join(f'{load:.1f}' for load in result['load_average'])
    lines = [
        f'{result["machine"]}, {result["date"]}, load average {loads}. {versions}.',
        '',
        f'Images a second, medians of {result["rounds"]} rounds of turns, from JPEG files of 500×375 pixels '
        f'and {result["jpeg_bytes"] / 1000:.0f} KB, in batches of {BATCH}. Ratios are medians of those of '
        'single rounds.',
        '',
        '| pixels | workers | DataLoader | ours, JPEG | ratio | ours, prepared | ratio |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in result['rows']:
        cells = [f'{row["medians"]["torch"]:.0f}']
        for kind in ('jpeg', 'prepared'):
            cells += [f'{row["medians"][kind]:.0f}', f'{row["ratios"][kind]:.2f}']
        lines.append(f'| {row["size"]} | {row["workers"]} | {" | ".join(cells)} |')
    lines += ['', "Threads and processes (Grain's `mp_prefetch`), JPEG at 256 pixels:", '']
    lines += ['| workers | threads | processes |', '|---|---|---|']
    for row in result['rows']:
        if 'processes' in row['medians']:
            threads, processes = row['medians']['jpeg'], row['medians']['processes']
            lines.append(f'| {row["workers"]} | {threads:.0f} | {processes:.0f} |')
    return '\n'.join([*lines, '', *needed(result['rows']), '', *format_lines(result['formats']), ''])


def needed(rows: list[dict[str, Any]]) -> list[str]:
    """How many cores feed one H100: the images that it trains a second, by those that one worker loads."""
    lines = ['Cores that keep one H100 busy: images that it trains a second, by images of one worker.', '']
    lines += ['| network | trains | from JPEG | prepared |', '|---|---|---|---|']
    for row in rows:
        if row['workers'] == 1 and row['size'] in NEEDED:
            needed = NEEDED[row['size']]
            cells = [
                f'{needed} / {row["medians"][kind]:.0f} = {needed / row["medians"][kind]:.2f}'
                for kind in ('jpeg', 'prepared')
            ]
            lines.append(f'| ADM-{row["size"]} | {needed} | {" | ".join(cells)} |')
    return lines


def format_lines(formats: dict[str, dict[str, float]]) -> list[str]:
    lines = ['Formats of a prepared image of 256×256 pixels, in milliseconds of CPU time:', '']
    lines += ['| format | KB | write | read |', '|---|---|---|---|']
    for name, row in formats.items():
        size, write, read = (row[key] for key in ('bytes', 'write_ms', 'read_ms'))
        lines.append(f'| {name} | {size / 1000:.0f} | {write:.2f} | {read:.2f} |')
    return lines


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
