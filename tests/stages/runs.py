"""Runs of the digits for tests that call stages directly."""

from pathlib import Path

from diffusion_jax import main
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages.run import Run
from tests.program import arguments


def read_experiment(**changes):
    return main.read_experiment(main.parse_flags(arguments('unused', **changes)).config)


def make_run(workdir='unused', stages=(), **changes):
    return Run(read_experiment(**changes), Path(workdir), make_mesh(), lambda: False, stages)
