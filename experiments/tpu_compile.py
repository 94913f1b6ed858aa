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
import jax.numpy as jnp
from collectives import exchanged, num_bytes
from jax.experimental import topologies
from jax.sharding import Mesh

from diffusion_jax import main as program
from diffusion_jax import models
from diffusion_jax.config import read_without_images
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.schedules import schedule_of
from diffusion_jax.errors import UserError
from diffusion_jax.models import UNetConfig
from diffusion_jax.sharding import abstract_on, batch_sharding, make_mesh, param_shardings
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.losses import diffusion_losses
from diffusion_jax.training.step import init_state, jit_train_step

TOPOLOGY = 'v5e:2x4'


class Training(NamedTuple):
    network: UNetConfig
    diffusion: DiffusionConfig
    config: TrainConfig


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
    return Training(experiment.unet, experiment.diffusion, experiment.train)


def compile_step(training: Training, mesh: Mesh) -> jax.stages.Compiled:
    """The step of `jit_train_step` on a mesh of devices that need not exist."""
    network, diffusion, config = training
    steps, size = diffusion.num_timesteps, config.batch_size

    def init(key: jax.Array):
        return init_state(models.init(network, key), config, steps, key)

    state = jax.eval_shape(init, jax.random.key(0))
    shardings = param_shardings(mesh, state)
    batch = {
        'image': jax.ShapeDtypeStruct((size, *network.image_size, network.image_channels), jnp.uint8),
        'label': jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    losses = diffusion_losses(network, diffusion, schedule_of(diffusion))
    step = jit_train_step(losses, config, steps, mesh, shardings)
    return step.lower(abstract_on(shardings, state), abstract_on(batch_sharding(mesh), batch)).compile()


def report(training: Training, data: int, fsdp: int) -> None:
    print(f'\n## data={data}, fsdp={fsdp}\n', flush=True)
    mesh = make_mesh(data, fsdp, devices=topologies.get_topology_desc(TOPOLOGY, platform='tpu').devices)
    start = time.perf_counter()
    try:
        compiled = compile_step(training, mesh)
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
    network, _, config = training
    size = sum(leaf.size for leaf in jax.tree.leaves(models.param_shapes(network)))
    print(f'{TOPOLOGY}, jax {jax.__version__}; a UNet of {4 * size / 1e6:.2f} MB of parameters (float32,')
    print(f'beside them averages and two moments), {network.dtype}, batch {config.batch_size}.')
    for sizes in ((8, 1), (1, 8)):
        report(training, *sizes)


if __name__ == '__main__':
    main()
