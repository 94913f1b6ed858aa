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
        sources: the images that were listed so far, by split; see `source`.
    """

    experiment: Experiment
    workdir: Path
    mesh: jax.sharding.Mesh
    stop: Callable[[], bool]
    sources: dict[str, Source] = dataclasses.field(default_factory=dict, repr=False)

    def source(self, split: str) -> Source:
        """The images of 'train' or 'test', listed once. Raises UserError where they do not fit the config."""
        if split not in self.sources:
            self.sources[split] = make_source(self.experiment.data, split)
        return self.sources[split]

    def on(self, mesh: jax.sharding.Mesh) -> Run:
        """The same run on another mesh."""
        return dataclasses.replace(self, mesh=mesh)
