"""Measure the speed and memory of a config's networks on the devices of this machine.

    python experiments/benchmark.py configs/digits.py
    python experiments/benchmark.py configs/imagenet64.py --batch-size 32 --dtype bfloat16 --out runs/speed
    python experiments/benchmark.py configs/digits.py --parts forward --config.unet.num_res_blocks=2

Each part is one program, which is compiled and called once before it is timed:

    forward           the diffusion model, without dropout
    train             a training step of the diffusion model: losses, gradients, optimizer, averages
    sample_step       a step of the config's sampler, unguided: noise, network, update
    guided_step       the same with classifier guidance
    train_classifier  a training step of the classifier

Prints a table; --out also writes benchmark.json. Rates are those of the complete batch over all devices,
memory is that of one device. A batch goes through the network at once; microbatches of the config are
ignored. To get the images per second of a sampling, divide those of a step by its number of steps.

--against compares the guided step and the training step with the authors' code on one GPU:

    python experiments/benchmark.py --against ../guided-diffusion --out runs/comparison
    python experiments/benchmark.py configs/imagenet64.py --against ../guided-diffusion --batch-size 32

PATH is a checkout of https://github.com/openai/guided-diffusion. PyTorch is needed, by default in the same
Python. Without a config, imagenet256 with 16 images and imagenet64 with 64 are measured. Our programs run
with the config's defaults and with both networks in bfloat16; theirs with the flags of their released models,
in float16 throughout, and compiled by torch.compile. The comparison also measures the time of our programs by
kind of kernel, the fraction of the device's matrix rate that training reaches, and the seconds to a first
guided image. It takes at most --budget seconds, the most important rows first; --out writes comparison.json
and comparison.md after every measurement.

Several programs are compiled and autotuned at a time, while others use the GPU. --jobs=1 avoids this and
takes longer.

FLOPs are XLA's count of the program compiled for a CPU, including recomputation by `remat`. The count for a
GPU can omit products that libraries compute (https://github.com/jax-ml/jax/issues/22249).
"""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from benchmarking.comparison import Comparison, Limits
from benchmarking.entries import entries_of
from benchmarking.flags import check_checkout
from benchmarking.measuring import Running, compile_case, count_flops
from benchmarking.programs import Case, Setup, cases, read, with_networks
from benchmarking.tables import markdown
from benchmarking.workers import has_torch

from diffusion_jax.checks import between, one_of
from diffusion_jax.errors import UserError
from diffusion_jax.models.config import DTYPES
from diffusion_jax.sharding import make_mesh
from diffusion_jax.workdir import write_json

CONFIGS = Path(__file__).parents[1] / 'configs'
COMPARED = [str(CONFIGS / f'{name}.py') for name in ('imagenet256', 'imagenet64')]

# The table's columns: key of a row and the unit of the column.
COLUMNS = {
    'batch': ('batch_size', 1),
    'images/s': ('images_per_second', 1),
    'slowest': ('images_per_second_min', 1),
    'fastest': ('images_per_second_max', 1),
    'ms a call': ('milliseconds', 1),
    'trace, s': ('trace_seconds', 1),
    'compile, s': ('compile_seconds', 1),
    'GFLOP an image': ('flops_per_image', 1e9),
    'TFLOP/s': ('flops_per_second', 1e12),
    'memory, GB': ('memory_bytes', 1e9),
}


def measure(case: Case, batch_size: int, repeats: int) -> dict[str, float | None]:
    """The numbers of a row: compiles the program, then calls it `repeats` times and waits for each result."""
    compiled = compile_case(case)
    running = Running(case, compiled)
    seconds = [running.seconds() for _ in range(1 + repeats)][1:]  # the first call warms up
    median = statistics.median(seconds)
    flops = count_flops(case)
    return {
        'batch_size': batch_size,
        'images_per_second': batch_size / median,
        'images_per_second_min': batch_size / max(seconds),
        'images_per_second_max': batch_size / min(seconds),
        'milliseconds': 1000 * median,
        'trace_seconds': compiled.trace_seconds,
        'compile_seconds': compiled.compile_seconds,
        'flops_per_image': flops and flops / batch_size,
        'flops_per_second': flops and flops / median,
        'memory_bytes': compiled.memory_bytes,
    }


def table_line(row: dict[str, Any]) -> str:
    """One row in Markdown."""
    values = [row[key] and row[key] / unit for key, unit in COLUMNS.values()]
    cells = ['–' if v is None else f'{v:.0f}' if v >= 1000 else f'{v:.3g}' for v in values]
    return f'| {row["part"]} | ' + ' | '.join(cells) + ' |'


def versions(argv: Sequence[str]) -> dict[str, Any]:
    """What all numbers depend on."""
    return {
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
        'machine': platform.platform(),
        'num_cores': os.cpu_count(),
        'python': platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')},
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'arguments': list(argv),
    }


def describe(setup: Setup, argv: Sequence[str]) -> dict[str, Any]:
    """What the numbers of a table of one config depend on."""
    device = jax.devices()[0]
    return versions(argv) | {
        'device': device.device_kind,
        'platform': device.platform,
        'num_devices': setup.mesh.size,
        'experiment': dataclasses.asdict(setup.experiment),
    }


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the settings of the config; UserError for an option that cannot work."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Settings of the config are changed by --config.SECTION.SETTING=VALUE.',
        allow_abbrev=False,
    )
    parser.add_argument('config', nargs='*', help='a file such as configs/digits.py')
    parser.add_argument('--batch-size', type=int, help='over all devices; by default 8 for each')
    parser.add_argument('--dtype', choices=DTYPES, help="of both networks; by default the config's")
    parser.add_argument('--remat', action='store_true', help='recompute blocks in the backward pass')
    parser.add_argument('--parts', type=lambda text: text.split(','), help='such as forward,train')
    parser.add_argument('--repeats', type=int, default=10, help='calls of each program that are timed')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='takes benchmark.json or comparison.json')
    group = parser.add_argument_group("comparison with the authors' code")
    group.add_argument('--against', type=Path, metavar='PATH', help='a checkout of openai/guided-diffusion')
    group.add_argument('--torch-python', default=sys.executable, help='a Python that has PyTorch')
    group.add_argument('--budget', type=float, default=540, help='seconds for everything')
    jobs = max(1, (os.cpu_count() or 1) // 2)
    group.add_argument('--jobs', type=int, default=jobs, help='programs that are compiled at a time')
    group.add_argument('--cache', type=Path, metavar='FOLDER', help='keeps compiled programs and logs')
    options, settings = parser.parse_known_args(argv)
    if options.batch_size is not None:
        between('--batch-size', options.batch_size, 1)
    between('--repeats', options.repeats, 1)
    between('--budget', options.budget, 1)
    between('--jobs', options.jobs, 1)
    if options.against is None and len(options.config) != 1:
        raise UserError('--config', f'got {len(options.config)}', 'give one, or several with --against')
    return options, settings


def set_up(options: argparse.Namespace, settings: Sequence[str]) -> Setup:
    """What follows from the options for a table of one config; UserError for what cannot be measured."""
    changes = ({'dtype': options.dtype} if options.dtype else {}) | ({'remat': True} if options.remat else {})
    experiment = with_networks(read(options.config[0], settings), **changes)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    batch_size = 8 * mesh.size if options.batch_size is None else options.batch_size
    if batch_size % mesh.size:
        remedy = f'must be divisible by {mesh.size}, the number of devices'
        raise UserError('--batch-size', f'got {batch_size}', remedy)
    for part in options.parts or ():
        one_of('--parts', part, cases(experiment))
    return Setup(experiment, mesh, batch_size)


def compare(options: argparse.Namespace, settings: list[str], argv: Sequence[str]) -> None:
    """Times our programs and the authors'; UserError for what cannot be compared."""
    check_checkout(options.against)
    if not has_torch(options.torch_python):
        problem = f'{options.torch_python} has no PyTorch'
        raise UserError('--torch-python', problem, 'install torch, or name another Python')
    jax.config.update('jax_platforms', 'cpu')  # the device's memory is for the processes that are timed
    entries = entries_of(options.config or COMPARED, settings, options.batch_size, options.against)
    about = versions(argv)

    def save() -> None:
        if options.out:
            report = about | comparison.report()
            write_json(options.out / 'comparison.json', report)
            (options.out / 'comparison.md').write_text(markdown(report))

    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        limits = Limits(options.budget, options.repeats, options.jobs)
        comparison = Comparison(entries, limits, options.torch_python, cache.resolve(), save)
        comparison.run()
    save()
    print(markdown(about | comparison.report()))


def table(options: argparse.Namespace, setup: Setup, argv: Sequence[str]) -> None:
    """Measures the parts of one config."""
    report = describe(setup, argv) | {'rows': []}
    print(f'{report["num_devices"]} × {report["device"]}, jax {report["jax"]}\n')
    print('| part | ' + ' | '.join(COLUMNS) + ' |\n' + '|---' * (1 + len(COLUMNS)) + '|', flush=True)
    makers = cases(setup.experiment)
    # Every row is given away at once: the next part may need more memory than there is.
    for part in options.parts or makers:
        row = {'part': part} | measure(makers[part](setup), setup.batch_size, options.repeats)
        print(table_line(row), flush=True)
        report['rows'].append(row)
        if options.out:
            write_json(options.out / 'benchmark.json', report)


def main(argv: Sequence[str]) -> int:
    """Measures with arguments of the command line, the program's name left out; returns the exit code."""
    try:
        options, settings = arguments(argv)
        if options.against is not None:
            compare(options, settings, argv)
        else:
            table(options, set_up(options, settings), argv)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    # A program that comes out of the cache would pass for one that compiles fast.
    jax.config.update('jax_enable_compilation_cache', False)
    sys.exit(main(sys.argv[1:]))
