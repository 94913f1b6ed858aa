"""How fast a config's networks are on the devices at hand, and how much memory they need.

    python experiments/benchmark.py configs/digits.py
    python experiments/benchmark.py configs/imagenet64.py --batch-size 32 --dtype bfloat16 --out runs/speed
    python experiments/benchmark.py configs/digits.py --parts forward --config.unet.num_res_blocks=2

Each part is one program, compiled ahead of time and called once before the clock runs:

    forward           the diffusion model, without dropout
    train             a training step of the diffusion model: losses, gradients, optimizer, averages
    sample_step       a step of the config's sampler, unguided: noise, network, update
    guided_step       the same with classifier guidance
    train_classifier  a training step of the classifier

Prints a table; with --out writes benchmark.json too. Rates are those of the whole batch over all devices,
memory is that of one device. A batch is what goes through a network at once: the microbatches of a
training step, if the config has several, are left out. An image takes as many sampling steps as its respacing
has, so that images per second of a step are to be divided by them.

FLOPs are XLA's count of the program as it is written, recomputation by `remat` included, and for a CPU: of
programs compiled for a GPU XLA has been seen to leave out products that libraries compute
(https://github.com/jax-ml/jax/issues/22249).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import main as program
from diffusion_jax import models
from diffusion_jax.checks import between, one_of
from diffusion_jax.config import read_without_images
from diffusion_jax.data.transforms import to_float
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation import options
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.program import sample_program
from diffusion_jax.generation.sampling import Request, begin, continue_from
from diffusion_jax.models.config import DTYPES
from diffusion_jax.sharding import batch_sharding, make_mesh, replicated
from diffusion_jax.training.objectives import classifier_objective, diffusion_objective
from diffusion_jax.training.program import first_state, train_program
from diffusion_jax.training.step import make_train_step
from diffusion_jax.workdir import write_json

Batch = dict[str, jax.Array | None]

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


class Setup(NamedTuple):
    experiment: Experiment
    mesh: jax.sharding.Mesh
    batch_size: int


class Case(NamedTuple):
    """A program and its arguments.

    Attributes:
        function: for a single device; its FLOPs are counted.
        jitted: what is called; by default `function`.
        consumes: the first argument is a state that is used up, and the first result the next one.
    """

    function: Callable
    arguments: tuple
    jitted: Callable | None = None
    consumes: bool = False


def drawn_params(network: models.UNetConfig | models.ClassifierConfig) -> models.Params:
    """NumPy parameters: kernels from N(0, 1/fan-in), scales 1, biases 0.

    They are sampled on the host, since `models.init` takes long to compile for a large network. No kernel is
    0, as some are after `init`: nothing shall be cheaper than in a trained network.
    """
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim > 1:
            return rng.standard_normal(leaf.shape, np.float32) / np.float32(math.prod(leaf.shape[:-1]) ** 0.5)
        return np.full(leaf.shape, path[-1].key == 'scale', np.float32)

    return jax.tree_util.tree_map_with_path(draw, models.param_shapes(network))


def draw_batch(setup: Setup) -> Batch:
    """Random uint8 images of the data's size, smaller ones for an upsampler, labels and indices."""
    data, rng = setup.experiment.data, np.random.default_rng(0)

    def images(size: tuple[int, int]) -> np.ndarray:
        return rng.integers(0, 256, (setup.batch_size, *size, data.image_channels), np.uint8)

    index = np.arange(setup.batch_size, dtype=np.int32)
    batch = {
        'image': images(data.image_size),
        'low_res': images(data.low_res_size) if data.low_res_size else None,
        'label': index % data.num_classes,
        'index': index,
    }
    return jax.device_put(batch, batch_sharding(setup.mesh))


def forward_case(setup: Setup) -> Case:
    unet = setup.experiment.unet

    def forward(params: models.Params, batch: Batch) -> jax.Array:
        low_res = None if batch['low_res'] is None else to_float(batch['low_res'])
        t = batch['index']  # any will do
        return models.apply(unet, params, to_float(batch['image']), t, batch['label'], low_res=low_res)

    params = jax.device_put(drawn_params(unet), replicated(setup.mesh))
    return Case(forward, (params, draw_batch(setup)))


def train_case(setup: Setup, *, classifier: bool = False) -> Case:
    experiment, process = setup.experiment, setup.experiment.diffusion
    if classifier:
        network, config = experiment.classifier, experiment.train_classifier
        objective = classifier_objective(network, process)
    else:
        network, config = experiment.unet, experiment.train
        objective = diffusion_objective(network, process, experiment.data.low_res_size)
    config = dataclasses.replace(config, batch_size=setup.batch_size, microbatches=1)
    key = jax.random.key(experiment.seed)
    jitted, (state, batch) = train_program(objective, network, config, setup.mesh)
    state = first_state(objective, network, config, state, key, drawn_params(network))
    drawn = draw_batch(setup)
    batch = {name: drawn[name] for name in batch}
    return Case(make_train_step(objective, config), (state, batch), jitted, consumes=True)


def sample_case(setup: Setup, *, guided: bool = False) -> Case:
    experiment, batch = setup.experiment, draw_batch(setup)
    networks = Networks(experiment.unet, experiment.diffusion, experiment.classifier if guided else None)
    recipe = experiment.sample.as_recipe()
    recipe = recipe if guided else recipe.unguided()
    low_res_size = experiment.data.low_res_size
    program = sample_program(networks, recipe, setup.mesh, setup.batch_size, low_res_size)
    params = {'diffusion': drawn_params(networks.unet)}
    if guided:
        params['classifier'] = drawn_params(networks.classifier)
    recipe = options.traced(recipe, setup.batch_size)
    seed = np.uint32(experiment.sample.seed)
    request = Request(seed, batch['index'], batch['label'], recipe, batch['low_res'])
    carry = jax.jit(functools.partial(begin, networks))(params, request)
    arguments = params, request, carry, np.int32(0), np.int32(1)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.arguments)
    step = functools.partial(continue_from, networks)
    return Case(step, jax.device_put(arguments, shardings), program.jitted)


def cases(experiment: Experiment) -> dict[str, Callable[[Setup], Case]]:
    """The parts that a config has; each is made when its turn comes, to hold the arguments of one only."""
    parts = {'forward': forward_case, 'train': train_case, 'sample_step': sample_case}
    if experiment.classifier is not None:
        parts['guided_step'] = functools.partial(sample_case, guided=True)
        if experiment.train_classifier is not None:
            parts['train_classifier'] = functools.partial(train_case, classifier=True)
    return parts


def count_flops(case: Case) -> float | None:
    """FLOPs of a call; None where JAX_PLATFORMS shuts out the CPU, or XLA does not say."""
    try:
        cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend='cpu')[0])
    except RuntimeError:
        return None
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=cpu), case.arguments
    )
    cost = jax.jit(case.function).lower(*arguments).cost_analysis()
    return cost and cost.get('flops')


def peak_memory(compiled: jax.stages.Compiled) -> int | None:
    """Bytes of a call on one device, its arguments included; None where the compiler does not say."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    buffers = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return buffers - memory.alias_size_in_bytes


def measure(case: Case, batch_size: int, repeats: int) -> dict[str, float | None]:
    """The numbers of a row: compiles the program, then calls it `repeats` times and waits for each result."""
    arguments, jitted = case.arguments, case.jitted or jax.jit(case.function)
    start = time.perf_counter()
    lowered = jitted.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    seconds = []
    for _ in range(1 + repeats):
        called = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - called)
        if case.consumes:
            arguments = (result[0], *arguments[1:])
    seconds = seconds[1:]  # the first call warms up
    median = statistics.median(seconds)
    flops = count_flops(case)  # last: it traces the program, and JAX would remember that
    return {
        'batch_size': batch_size,
        'images_per_second': batch_size / median,
        'images_per_second_min': batch_size / max(seconds),
        'images_per_second_max': batch_size / min(seconds),
        'milliseconds': 1000 * median,
        'trace_seconds': traced - start,
        'compile_seconds': done - traced,
        'flops_per_image': flops and flops / batch_size,
        'flops_per_second': flops and flops / median,
        'memory_bytes': peak_memory(compiled),
    }


def table_line(row: dict[str, Any]) -> str:
    """One row in Markdown."""
    values = [row[key] and row[key] / unit for key, unit in COLUMNS.values()]
    cells = ['–' if v is None else f'{v:.0f}' if v >= 1000 else f'{v:.3g}' for v in values]
    return f'| {row["part"]} | ' + ' | '.join(cells) + ' |'


def describe(setup: Setup, argv: Sequence[str]) -> dict[str, Any]:
    """What the numbers rest on."""
    device = jax.devices()[0]
    return {
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
        'device': device.device_kind,
        'platform': device.platform,
        'num_devices': setup.mesh.size,
        'machine': platform.platform(),
        'num_cores': os.cpu_count(),
        'python': platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')},
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'arguments': list(argv),
        'experiment': dataclasses.asdict(setup.experiment),
    }


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Setup]:
    """The command line and what follows from it; UserError for what cannot be measured."""
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
    parser.add_argument('--repeats', type=int, default=20, help='calls of each part')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='takes benchmark.json')
    options, settings = parser.parse_known_args(argv)
    config = program.parse_flags(['benchmark', f'--config={options.config}', *settings]).config
    experiment = read_without_images(config)
    changes = ({'dtype': options.dtype} if options.dtype else {}) | ({'remat': True} if options.remat else {})
    unet = dataclasses.replace(experiment.unet, **changes)
    classifier = experiment.classifier and dataclasses.replace(experiment.classifier, **changes)
    experiment = dataclasses.replace(experiment, unet=unet, classifier=classifier)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    batch_size = 8 * mesh.size if options.batch_size is None else options.batch_size
    between('--batch-size', batch_size, 1)
    between('--repeats', options.repeats, 1)
    if batch_size % mesh.size:
        devices = f'{mesh.size}, the number of devices'
        raise UserError(f'--batch-size is {batch_size}; it must be divisible by {devices}')
    for part in options.parts or ():
        one_of('--parts', part, cases(experiment))
    return options, Setup(experiment, mesh, batch_size)


def main(argv: Sequence[str]) -> int:
    """Measures with arguments of the command line, the program's name left out; returns the exit code."""
    try:
        options, setup = parse(argv)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
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
    return 0


if __name__ == '__main__':
    # A program that comes out of the cache would pass for one that compiles fast.
    jax.config.update('jax_enable_compilation_cache', False)
    sys.exit(main(sys.argv[1:]))
