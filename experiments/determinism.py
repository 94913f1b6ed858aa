"""Measure the cost of bitwise reproducible training on a GPU, under three sets of XLA's flags.

python experiments/determinism.py --config=photos [--config.train.batch_size=16 …] [--once]

Every line is a process of its own. 'again' starts without any cache; 'kept' compiles again with the kernels
that the line before it selected, as with config.deterministic. --once omits both, for networks that compile
for minutes.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.command_line import parse_flags
from diffusion_jax.compilation_cache import EXCLUDE
from diffusion_jax.config import read_experiment
from diffusion_jax.sharding import make_mesh, put_batch
from diffusion_jax.training.objectives import diffusion_objective
from diffusion_jax.training.program import first_state, train_program

FLAGS = {'default': '', 'exclude': EXCLUDE, 'deterministic': '--xla_gpu_deterministic_ops=true'}
STEPS = 20


def measure(arguments: list[str]) -> dict[str, float | str]:
    """Seconds to compile, median milliseconds of a step, a digest of the parameters after the last one."""
    flags = parse_flags(['determinism', *arguments, '--config.data.num_classes=10', '--workdir=unused'])
    experiment, mesh = read_experiment(flags.config), make_mesh()
    network, train = experiment.unet, experiment.train
    objective = diffusion_objective(network, experiment.diffusion, experiment.data.low_res_size)
    program = train_program(objective, network, train, mesh)
    rng = np.random.default_rng(0)
    size = (train.batch_size, *network.image_size, network.image_channels)
    batch = {
        'image': rng.integers(0, 256, size, np.uint8),
        'label': rng.integers(0, 10, train.batch_size, np.int32),
    }
    state = first_state(objective, network, train, program.arguments[0], jax.random.key(0))
    times = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        state, metrics = program.jitted(state, put_batch(mesh, batch))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(state.params)):
        digest.update(np.ascontiguousarray(leaf))
    return {'compile_s': times[0], 'ms': 1000 * statistics.median(times[1:]), 'bits': digest.hexdigest()[:12]}


def in_a_process(arguments: list[str], flags: str, cache: str) -> dict[str, float | str]:
    """`measure` under these flags, with this cache of programs and kernels."""
    flags = f'{os.environ.get("XLA_FLAGS", "")} {flags}'.strip()
    environment = os.environ | {'XLA_FLAGS': flags, 'JAX_COMPILATION_CACHE_DIR': cache}
    command = [sys.executable, __file__, '--child', *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    if '--child' in arguments:
        arguments.remove('--child')
        device = jax.devices()[0].device_kind
        print(json.dumps(measure(arguments) | {'device': f'{device}, jax {jax.__version__}'}))
        return
    once = '--once' in arguments
    arguments = [argument for argument in arguments if argument != '--once']
    for name, flags in FLAGS.items():
        cache = tempfile.mkdtemp()
        rows = {name: cache}
        if not once and name == 'exclude':
            rows['exclude, kept'] = cache
        elif not once:
            rows[f'{name}, again'] = tempfile.mkdtemp()
        for row, cache in rows.items():
            found = in_a_process(arguments, flags, cache)
            for program in Path(cache).glob('*-cache'):
                program.unlink()
            text = f'{found["compile_s"]:.1f} s | {found["ms"]:.2f} ms | {found["bits"]}'
            print(f'| {found["device"]} | {row} | {text} |', flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
