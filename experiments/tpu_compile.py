"""A step of training or sampling compiled for eight TPU cores without a TPU: what they exchange and hold.

    pip install 'jax[tpu]'
    python experiments/tpu_compile.py
    python experiments/tpu_compile.py --part=sample
    python experiments/tpu_compile.py --config=configs/imagenet64.py --config.train.batch_size=64

The training is that of a config's diffusion model, or of a small UNet. --part=sample compiles a step of the
config's sampler, guided if the config is. Results: results/tpu_compile.md.

libtpu compiles ahead of time for a topology that is only described. Nothing runs: no speed is measured.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import time
from collections.abc import Callable
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
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.program import sample_program
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.program import Program
from diffusion_jax.sharding import make_mesh
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.objectives import diffusion_objective
from diffusion_jax.training.program import train_program

TOPOLOGY = 'v5e:2x4'


class Setup(NamedTuple):
    """What is compiled, without its mesh.

    Attributes:
        config: of training.
        sample: of sampling; the classifier is used where it is guided.
    """

    unet: UNetConfig
    diffusion: DiffusionConfig
    config: TrainConfig
    classifier: ClassifierConfig | None
    sample: SampleConfig
    low_res_size: Size | None = None

    @property
    def networks(self) -> Networks:
        """Those that sampling uses."""
        return Networks(self.unet, self.diffusion, self.classifier if self.sample.guided else None)

    def training(self, mesh: jax.sharding.Mesh) -> Program:
        objective = diffusion_objective(self.unet, self.diffusion, self.low_res_size)
        return train_program(objective, self.unet, self.config, mesh)

    def sampling(self, mesh: jax.sharding.Mesh) -> Program:
        batch_size, recipe = self.sample.batch_size, self.sample.as_recipe()
        return sample_program(self.networks, recipe, mesh, batch_size, self.low_res_size)


TRUNK = {
    'image_size': (16, 16),
    'image_channels': 3,
    'model_channels': 64,
    'channel_mult': (1, 2),
    'num_res_blocks': 1,
    'attention_resolutions': (8,),
    'num_head_channels': 64,
    'num_classes': 10,
    'dtype': 'bfloat16',
}
SMALL = Setup(
    UNetConfig(**TRUNK, out_channels=6),
    DiffusionConfig(schedule='cosine', num_timesteps=1000, loss='rescaled_mse'),
    TrainConfig(num_steps=1, batch_size=64),
    ClassifierConfig(**TRUNK, pool='attention'),
    SampleConfig(batch_size=64),
)


def setup_of(argv: list[str]) -> Setup:
    """That of the config in the command line, or a small one."""
    if len(argv) == 1:
        return SMALL
    experiment = read_without_images(program.parse_flags(argv).config)
    low_res_size = experiment.data.low_res_size
    return Setup(
        experiment.unet,
        experiment.diffusion,
        experiment.train,
        experiment.classifier,
        experiment.sample,
        low_res_size,
    )


def report(make_program: Callable[[jax.sharding.Mesh], Program], data: int, fsdp: int) -> None:
    print(f'\n## data={data}, fsdp={fsdp}\n', flush=True)
    mesh = make_mesh(data, fsdp, devices=topologies.get_topology_desc(TOPOLOGY, platform='tpu').devices)
    start = time.perf_counter()
    try:
        compiled = make_program(mesh).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        print(f'Not compiled: {str(error).splitlines()[0]}')
        return
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    held, temporary = memory.argument_size_in_bytes / 1e6, memory.temp_size_in_bytes / 1e6
    print(f'Each device: {held:.2f} MB of arguments, {temporary:.2f} MB for the step; {seconds:.0f} s.\n')
    print('| exchanged | arrays | MB | shapes |\n|---|---|---|---|')
    for kind, arrays in sorted(exchanged(compiled.as_text()).items()):
        shapes = collections.Counter(arrays)
        rows = sorted(((n * num_bytes(array), n, array) for array, n in shapes.items()), reverse=True)
        largest = ', '.join(f'{n}× {dtype}[{",".join(map(str, shape))}]' for _, n, (dtype, shape) in rows[:6])
        total = sum(size for size, _, _ in rows) / 1e6
        print(f'| {kind} | {len(arrays)} | {total:.2f} | {largest}{", …" * (len(rows) > 6)} |')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--part', choices=('train', 'sample'), default='train')
    options, settings = parser.parse_known_args()
    try:
        setup = setup_of([sys.argv[0], *settings])
    except UserError as error:
        sys.exit(f'error: {error}')
    sampled = options.part == 'sample'
    make_program = setup.sampling if sampled else setup.training
    networks = [setup.unet, setup.networks.classifier] if sampled else [setup.unet]
    sizes = ' and '.join(megabytes(network) for network in networks if network)
    batch_size = setup.sample.batch_size if sampled else setup.config.batch_size
    print(f'{TOPOLOGY}, jax {jax.__version__}; {sizes} MB of parameters in float32,')
    print(f'computed in {setup.unet.dtype}; {options.part}, batch {batch_size}.')
    for mesh in ((8, 1), (1, 8)):
        report(make_program, *mesh)


def megabytes(network: UNetConfig | ClassifierConfig) -> str:
    """The size of the parameters."""
    size = sum(leaf.size for leaf in jax.tree.leaves(models.param_shapes(network)))
    return f'{4 * size / 1e6:.2f}'


if __name__ == '__main__':
    main()
