"""Measure the speed and memory of a config's networks on the devices of this machine.

    python experiments/benchmark.py configs/digits.py
    python experiments/benchmark.py configs/imagenet64.py --batch-size 32 --dtype bfloat16 --out speed.json
    python experiments/benchmark.py configs/digits.py --parts forward --config.unet.num_res_blocks=2

Each part is one program, which is compiled and called once before it is timed:

    matrix            a product of two 8192×8192 bfloat16 matrices
    forward           the diffusion model, without dropout
    train             a training step of the diffusion model: losses, gradients, optimizer, averages
    sample_step       a step of the config's sampler, unguided: noise, network, update
    guided_step       the same with classifier guidance
    train_classifier  a training step of the classifier

Prints a table. Rates are those of the complete batch over all devices, memory is that of one device;
training steps are without microbatches. FLOPs are those of `diffusion_jax/flops.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import jax
from benchmarking.kernel_kinds import profiled
from benchmarking.programs import Case, Setup, cases

from diffusion_jax.checks import between, one_of
from diffusion_jax.command_line import read_config
from diffusion_jax.config import read_without_images
from diffusion_jax.errors import UserError
from diffusion_jax.flops import count_flops
from diffusion_jax.models.config import DTYPES
from diffusion_jax.sharding import make_mesh
from diffusion_jax.workdir import write_json

# The table's columns: key of a row and the unit of the column.
COLUMNS = {
    'batch': ('batch_size', 1),
    'images/s': ('images_per_second', 1),
    'ms a step': ('milliseconds', 1),
    'fastest': ('milliseconds_min', 1),
    'slowest': ('milliseconds_max', 1),
    'trace, s': ('trace_seconds', 1),
    'compile, s': ('compile_seconds', 1),
    'GFLOP an image': ('flops_per_image', 1e9),
    'TFLOP/s': ('flops_per_second', 1e12),
    'memory, GB': ('memory_bytes', 1e9),
}


def measure(case: Case, batch_size: int, repeats: int, profile: bool) -> dict[str, Any]:
    """The numbers of a row: compiles the program, then calls it `repeats` times and waits for each result."""
    start = time.perf_counter()
    traced = case.program.jitted.trace(*case.program.arguments)
    compiling = time.perf_counter()
    compiled = traced.lower().compile()
    compiled_at = time.perf_counter()
    calls = case.seconds(compiled)
    next(calls)  # the first call warms up
    seconds = list(islice(calls, repeats))
    median, flops = statistics.median(seconds), count_flops(traced.jaxpr)  # of a loop one step
    memory = compiled.memory_analysis()
    buffers = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    row = {
        'batch_size': batch_size,
        'images_per_second': batch_size / median,
        'milliseconds': 1000 * median,
        'milliseconds_min': 1000 * min(seconds),
        'milliseconds_max': 1000 * max(seconds),
        'trace_seconds': compiling - start,
        'compile_seconds': compiled_at - compiling,
        'flops_per_image': flops / batch_size,
        'flops_per_second': flops / median,
        'memory_bytes': buffers - memory.alias_size_in_bytes,
    }
    return row | ({'profile': profiled(lambda: next(calls), case.steps)} if profile else {})


def table_line(row: dict[str, Any]) -> str:
    """One row in Markdown."""
    values = [row[key] / unit for key, unit in COLUMNS.values()]
    cells = [f'{value:.0f}' if value >= 1000 else f'{value:.3g}' for value in values]
    return f'| {row["part"]} | ' + ' | '.join(cells) + ' |'


def describe(setup: Setup, argv: Sequence[str]) -> dict[str, Any]:
    """The conditions of the measurement."""
    device = jax.devices()[0]
    return {
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
        'machine': platform.platform(),
        'num_cores': os.cpu_count(),
        'python': platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')},
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'arguments': list(argv),
        'device': device.device_kind,
        'platform': device.platform,
        'num_devices': setup.mesh.size,
        'experiment': dataclasses.asdict(setup.experiment),
    }


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, Setup]:
    """The options, and the setup that they give; UserError for an option that cannot work."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Settings of the config are changed by --config.SECTION.SETTING=VALUE.',
        allow_abbrev=False,
    )
    parser.add_argument('config', help='a file such as configs/digits.py')
    parser.add_argument('--batch-size', type=int, help='over all devices; by default 8 for each')
    parser.add_argument('--dtype', choices=DTYPES, help="of both networks; by default the config's")
    parser.add_argument('--remat', action='store_true', help='recompute blocks in the backward pass')
    parser.add_argument('--parts', type=lambda text: text.split(','), help='such as forward,train')
    parser.add_argument('--repeats', type=int, default=10, help='calls of each program that are timed')
    parser.add_argument('--profile', action='store_true', help='also the time by kind of kernel, in --out')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='takes all numbers')
    options, settings = parser.parse_known_args(argv)
    between('--repeats', options.repeats, 1)
    experiment = read_without_images(read_config(options.config, settings))
    changes = ({'dtype': options.dtype} if options.dtype else {}) | ({'remat': True} if options.remat else {})
    networks = {name: getattr(experiment, name) for name in ('unet', 'classifier')}
    changed = {name: config and dataclasses.replace(config, **changes) for name, config in networks.items()}
    experiment = dataclasses.replace(experiment, **changed)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    batch_size = 8 * mesh.size if options.batch_size is None else options.batch_size
    between('--batch-size', batch_size, 1)
    if batch_size % mesh.size:
        raise UserError('--batch-size', f'got {batch_size}', f'must be divisible by {mesh.size} devices')
    for part in options.parts or ():
        one_of('--parts', part, cases(experiment))
    return options, Setup(experiment, mesh, batch_size)


def main(argv: Sequence[str]) -> int:
    """Measures with arguments of the command line, the program's name left out; returns the exit code."""
    try:
        options, setup = arguments(argv)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    # A program that comes out of the cache would pass for one that compiles fast.
    jax.config.update('jax_enable_compilation_cache', False)
    report = describe(setup, argv) | {'rows': []}
    print(f'{report["num_devices"]} × {report["device"]}, jax {report["jax"]}\n')
    print('| part | ' + ' | '.join(COLUMNS) + ' |\n' + '|---' * (1 + len(COLUMNS)) + '|', flush=True)
    makers = cases(setup.experiment)
    for part in options.parts or makers:
        row = measure(makers[part](setup), setup.batch_size, options.repeats, options.profile)
        report['rows'].append({'part': part} | row)
        print(table_line(report['rows'][-1]), flush=True)
        if options.out:  # after every row: the next part may run out of memory
            write_json(options.out, report)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
