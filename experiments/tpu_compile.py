"""A training step compiled for eight TPU cores without a TPU: what they exchange, and what each holds.

    pip install 'jax[tpu]'
    python experiments/tpu_compile.py
    python experiments/tpu_compile.py --config=configs/imagenet64.py --config.train.batch_size=64

The training is that of a config's diffusion model, or of a small UNet. Results: results/tpu_compile.md.

libtpu compiles ahead of time for a topology that is only described. Nothing runs: no speed is measured.
"""

from __future__ import annotations

import collections
import os
import sys
import time
from typing import NamedTuple

# libtpu asks the cloud what machine this is, unless it is told.
os.environ |= {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}

import jax
from collectives import exchanged, num_bytes
from jax.experimental import topologies

from diffusion_jax import main as program
from diffusion_jax import models
from diffusion_jax.config import read_without_images
from diffusion_jax.data.transforms import Size
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.models import UNetConfig
from diffusion_jax.sharding import make_mesh
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.objectives import diffusion_objective
from diffusion_jax.training.program import train_program

TOPOLOGY = 'v5e:2x4'


class Training(NamedTuple):
    network: UNetConfig
    diffusion: DiffusionConfig
    config: TrainConfig
    low_res_size: Size | None = None


SMALL = Training(
    UNetConfig(
        image_size=(16, 16),
        image_channels=3,
        out_channels=6,
        model_channels=64,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        num_head_channels=64,
        num_classes=10,
        dtype='bfloat16',
    ),
    DiffusionConfig(schedule='cosine', num_timesteps=1000, loss='rescaled_mse'),
    TrainConfig(num_steps=1, batch_size=64),
)


def training_of(argv: list[str]) -> Training:
    """That of the config in the command line, or a small one."""
    if len(argv) == 1:
        return SMALL
    experiment = read_without_images(program.parse_flags(argv).config)
    low_res_size = experiment.data.low_res_size
    return Training(experiment.unet, experiment.diffusion, experiment.train, low_res_size)


def report(training: Training, data: int, fsdp: int) -> None:
    print(f'\n## data={data}, fsdp={fsdp}\n', flush=True)
    network, diffusion, config, low_res_size = training
    objective = diffusion_objective(network, diffusion, low_res_size)
    mesh = make_mesh(data, fsdp, devices=topologies.get_topology_desc(TOPOLOGY, platform='tpu').devices)
    start = time.perf_counter()
    try:
        compiled = train_program(objective, network, config, mesh).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        print(f'Not compiled: {str(error).splitlines()[0]}')
        return
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    held, temporary = memory.argument_size_in_bytes / 1e6, memory.temp_size_in_bytes / 1e6
    print(
        f'Each device: {held:.2f} MB of state and batch, {temporary:.2f} MB for the step; {seconds:.0f} s.\n'
    )
    print('| exchanged | arrays | MB | shapes |\n|---|---|---|---|')
    for kind, arrays in sorted(exchanged(compiled.as_text()).items()):
        shapes = collections.Counter(arrays)
        rows = sorted(((n * num_bytes(array), n, array) for array, n in shapes.items()), reverse=True)
        largest = ', '.join(f'{n}× {dtype}[{",".join(map(str, shape))}]' for _, n, (dtype, shape) in rows[:6])
        total = sum(size for size, _, _ in rows) / 1e6
        print(f'| {kind} | {len(arrays)} | {total:.2f} | {largest}{", …" * (len(rows) > 6)} |')


def main() -> None:
    try:
        training = training_of(sys.argv)
    except UserError as error:
        sys.exit(f'error: {error}')
    network, config = training.network, training.config
    size = sum(leaf.size for leaf in jax.tree.leaves(models.param_shapes(network)))
    print(f'{TOPOLOGY}, jax {jax.__version__}; a UNet of {4 * size / 1e6:.2f} MB of parameters (float32,')
    print(f'beside them averages and two moments), {network.dtype}, batch {config.batch_size}.')
    for sizes in ((8, 1), (1, 8)):
        report(training, *sizes)


if __name__ == '__main__':
    main()
