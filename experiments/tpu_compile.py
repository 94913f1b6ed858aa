"""A training step compiled for eight TPU cores without a TPU: what they exchange, and what each holds.

pip install 'jax[tpu]', then: python experiments/tpu_compile.py > experiments/results/tpu_compile.md

libtpu compiles ahead of time for a topology that is only described. Nothing runs: no speed is measured.
"""

from __future__ import annotations

import collections
import math
import os
import re
import time

# libtpu asks the cloud what machine this is, unless it is told.
os.environ |= {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.schedules import make_schedule
from diffusion_jax.models import UNetConfig
from diffusion_jax.sharding import batch_sharding, make_mesh, param_shardings
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.losses import diffusion_losses
from diffusion_jax.training.step import init_state, jit_train_step

TOPOLOGY = 'v5e:2x4'
NETWORK = UNetConfig(
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
)
DIFFUSION = DiffusionConfig(schedule='cosine', num_timesteps=1000, loss='rescaled_mse')
TRAIN = TrainConfig(num_steps=1, batch_size=64)
KINDS = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
COLLECTIVE = re.compile(rf'= (\(.*?\)|\S+) ({KINDS})(?:-start)?\(.*?channel_id=(\d+)')
BYTES = {'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'pred': 1}


def compile_step(mesh: Mesh) -> jax.stages.Compiled:
    """The step of `jit_train_step` on a mesh of devices that need not exist."""
    steps = DIFFUSION.num_timesteps

    def on_mesh(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def init(key: jax.Array):
        return init_state(models.init(NETWORK, key), TRAIN, steps, key)

    state = jax.eval_shape(init, jax.random.key(0))
    shardings = param_shardings(mesh, state)
    image = jax.ShapeDtypeStruct((TRAIN.batch_size, *NETWORK.image_size, 3), jnp.uint8)
    batch = {'image': image, 'label': jax.ShapeDtypeStruct((TRAIN.batch_size,), jnp.int32)}
    batch = {name: on_mesh(leaf, batch_sharding(mesh)) for name, leaf in batch.items()}
    losses = diffusion_losses(NETWORK, DIFFUSION, make_schedule(DIFFUSION.schedule, steps))
    step = jit_train_step(losses, TRAIN, steps, mesh, shardings)
    return step.lower(jax.tree.map(on_mesh, state, shardings), batch).compile()


def exchanged(program: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(kind, shape) → how often, and bytes in all, of everything that devices exchange.

    An operation that runs beside others is written into the program several times, under one channel. A sum
    of which each device keeps a part is a reduce-scatter: for TPUs an all-reduce in a fusion of that name.
    """
    found, seen, inside = collections.Counter(), set(), ''
    for line in program.splitlines():
        if line.startswith(('%', 'ENTRY')):
            inside = line.split()[0]
        match = COLLECTIVE.search(line)
        if not match:
            continue
        types, kind, channel = match.groups()
        types = re.sub(r'\{[^}]*\}', '', types)  # without the layouts
        if (types, kind, channel) in seen:
            continue
        seen.add((types, kind, channel))
        kind = 'reduce-scatter' if 'all-reduce-scatter' in inside else kind
        arrays = re.findall(r'(\w+)\[([\d,]*)\]', types)
        found.update((kind, dtype, sizes) for dtype, sizes in arrays if dtype in BYTES)
    return {
        (kind, f'{dtype}[{sizes}]'): (
            n,
            n * BYTES[dtype] * math.prod(int(size) for size in sizes.split(',') if size),
        )
        for (kind, dtype, sizes), n in found.items()
    }


def report(data: int, fsdp: int) -> None:
    mesh = make_mesh(data, fsdp, devices=topologies.get_topology_desc(TOPOLOGY, platform='tpu').devices)
    start = time.perf_counter()
    compiled = compile_step(mesh)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    held, temporary = memory.argument_size_in_bytes / 1e6, memory.temp_size_in_bytes / 1e6
    print(f'\n## data={data}, fsdp={fsdp}\n')
    print(
        f'Each device: {held:.2f} MB of state and batch, {temporary:.2f} MB for the step; {seconds:.0f} s.\n'
    )
    print('| exchanged | arrays | MB | shapes |\n|---|---|---|---|')
    kinds = collections.defaultdict(list)
    for (kind, shape), (number, size) in exchanged(compiled.as_text()).items():
        kinds[kind].append((size, number, shape))
    for kind, rows in sorted(kinds.items()):
        largest = ', '.join(f'{n}× {shape}' for _, n, shape in sorted(rows, reverse=True)[:6])
        total = sum(size for size, _, _ in rows) / 1e6
        print(f'| {kind} | {sum(n for _, n, _ in rows)} | {total:.2f} | {largest}{", …" * (len(rows) > 6)} |')


def main() -> None:
    size = sum(leaf.size for leaf in jax.tree.leaves(models.param_shapes(NETWORK)))
    print(f'{TOPOLOGY}, jax {jax.__version__}; a UNet of {4 * size / 1e6:.2f} MB of parameters (float32,')
    print(f'beside them one average and two moments), {NETWORK.dtype}, batch {TRAIN.batch_size}.')
    for sizes in ((8, 1), (1, 8)):
        report(*sizes)


if __name__ == '__main__':
    main()
