"""Compare a small ADM with the authors' code on a CPU, and show where our time goes.

    python experiments/cpu.py --against ../guided-diffusion --torch-python ../torch/bin/python

The first path is that of a checkout of https://github.com/openai/guided-diffusion. Both sides compute in
float32 with all cores: a forward pass, a guided DDIM step, a training step, and 3×3 convolutions alone. They
are called in turn, in processes of their own. Prints medians as Markdown.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from benchmarking.flags import check_checkout, flags_of
from benchmarking.kernel_kinds import profiled
from benchmarking.measuring import Running, compile_case
from benchmarking.programs import Setup, cases, read
from benchmarking.workers import Worker, has_torch

from diffusion_jax.errors import UserError
from diffusion_jax.sharding import make_mesh

CONFIG = Path(__file__).parents[1] / 'configs' / 'imagenet64.py'
# ADM-64 with 64 channels and one residual block a level; guided DDIM.
NETWORK = {'model_channels': 64, 'num_res_blocks': 1, 'dtype': 'float32'}
SETTINGS = ['sample.sampler=ddim', 'sample.respacing=ddim25'] + [
    f'{network}.{name}={value}' for network in ('unet', 'classifier') for name, value in NETWORK.items()
]
BATCH_SIZE = 4
PARTS = ('forward', 'guided_step', 'train')
SHAPES = [(64, 64), (32, 128), (16, 192), (8, 256)]  # side and channels of its levels
CALLS = 3  # of one side before it is the other's turn
PATIENCE = 600  # seconds

Clock = Callable[[], float]


def medians(ours: Clock, theirs: Worker, repeats: int) -> tuple[float, float]:
    """Median milliseconds of both sides, called in turn."""
    until = time.monotonic() + PATIENCE
    seconds: tuple[list[float], list[float]] = [], []
    theirs.ask(until, 'load')
    for _ in range(repeats):
        seconds[1].extend(theirs.ask(until, 'time', calls=CALLS)['seconds'])
        seconds[0].extend([ours() for _ in range(1 + CALLS)][1:])  # the first call warms up
    theirs.close()
    return 1000 * statistics.median(seconds[0]), 1000 * statistics.median(seconds[1])


def convolution_clock(side: int, channels: int) -> Clock:
    """Seconds of a convolution by XLA, in the layout and precision of our networks."""
    x = jax.random.normal(jax.random.key(0), (BATCH_SIZE, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
    layout = ('NHWC', 'HWIO', 'NHWC')
    convolve = jax.jit(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, (1, 1), 'SAME', dimension_numbers=layout, precision='highest'
        )
    )

    def clock() -> float:
        start = time.perf_counter()
        convolve(x, kernel).block_until_ready()
        return time.perf_counter() - start

    return clock


def program_rows(worker: Callable[[dict[str, Any]], Worker], repeats: int) -> Iterator[str]:
    """A row for each part: milliseconds of both sides, and ours by operation, summed over threads."""
    experiment = read(str(CONFIG), [f'--config.{setting}' for setting in SETTINGS])
    setup = Setup(experiment, make_mesh(devices=jax.devices()[:1]), BATCH_SIZE)
    job = flags_of(experiment, half=False)
    job['model']['use_fp16'] = False
    for part in PARTS:
        case = cases(experiment)[part](setup)
        running = Running(case, compile_case(case))
        ours, theirs = medians(running.seconds, worker(job | {'part': part}), repeats)
        kinds = profiled(running.seconds, running.steps)['kinds']
        share = ', '.join(
            f'{kind} {100 * value / sum(kinds.values()):.0f} %' for kind, value in kinds.items()
        )
        yield f'| {part} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.2f} | {share} |'


def convolution_rows(worker: Callable[[dict[str, Any]], Worker], repeats: int) -> Iterator[str]:
    """A row for each shape: GFLOP/s of both sides."""
    for side, channels in SHAPES:
        job = {'part': 'convolution', 'side': side, 'channels': channels}
        ours, theirs = medians(convolution_clock(side, channels), worker(job), 3 * repeats)
        mflop = 2 * 9 * BATCH_SIZE * (side * channels) ** 2 / 1e6
        rates = f'{mflop / ours:.0f} | {mflop / theirs:.0f} | {theirs / ours:.2f}'
        yield f'| {channels} channels, {side}×{side} | {rates} |'


def main(argv: Sequence[str]) -> int:
    """Measures with arguments of the command line, the program's name left out; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--against', type=Path, metavar='PATH', required=True)
    parser.add_argument('--torch-python', default=sys.executable, help='a Python that has PyTorch')
    parser.add_argument('--repeats', type=int, default=5, help='turns of each side')
    options = parser.parse_args(argv)
    try:
        check_checkout(options.against)
        if not has_torch(options.torch_python):
            problem = f'{options.torch_python} has no PyTorch'
            raise UserError('--torch-python', problem, 'install torch, or name another Python')
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:

        def worker(job: dict[str, Any]) -> Worker:
            job = job | {'path': str(options.against), 'batch_size': BATCH_SIZE, 'compile': False}
            return Worker(
                'benchmarking.authors', job, dict(os.environ), Path(folder, 'log'), options.torch_python
            )

        print(f'{os.cpu_count()} cores, jax {jax.__version__}\n')
        print(
            '| program | ours, ms | theirs, ms | theirs / ours | ours by operation |\n|---|---|---|---|---|'
        )
        for row in program_rows(worker, options.repeats):
            print(row, flush=True)
        print('\n| 3×3 convolution | XLA, GFLOP/s | PyTorch, GFLOP/s | theirs / ours |\n|---|---|---|---|')
        for row in convolution_rows(worker, options.repeats):
            print(row, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
