"""What every stage is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax

from diffusion_jax.data.sources import Source, make_source
from diffusion_jax.experiment import Experiment


@dataclass(frozen=True)
class Run:
    """An experiment in its working directory, on the devices of a mesh.

    Attributes:
        stop: whether the user or the machine has asked to leave.
    """

    experiment: Experiment
    workdir: Path
    mesh: jax.sharding.Mesh
    stop: Callable[[], bool]

    def source(self, split: str) -> Source:
        """The images of 'train' or 'test'. Raises UserError where they do not fit the config."""
        return make_source(self.experiment.data, split)

    def on(self, mesh: jax.sharding.Mesh) -> Run:
        """The same run on another mesh."""
        return dataclasses.replace(self, mesh=mesh)
