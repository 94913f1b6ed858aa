"""A stage of an experiment on some devices, and its program."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from jax.sharding import AbstractMesh, Mesh

from diffusion_jax.experiment import Experiment
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.options import check_respacing
from diffusion_jax.generation.program import sample_program
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.planning.topology import Topology
from diffusion_jax.program import Program
from diffusion_jax.sharding import AXES, check_batch_size, make_mesh, mesh_shape
from diffusion_jax.training.objectives import classifier_objective, diffusion_objective
from diffusion_jax.training.program import train_program

TRAINED = {'train': 'unet', 'train_classifier': 'classifier'}  # the network that a stage trains
STAGES = (*TRAINED, 'sample')


class Job(NamedTuple):
    """A stage of an experiment on some devices."""

    experiment: Experiment
    stage: str
    topology: Topology

    @property
    def config(self) -> Any:
        """The section of the stage, which gives the batch size."""
        return getattr(self.experiment, self.stage)

    @property
    def networks(self) -> list[UNetConfig | ClassifierConfig]:
        """The networks whose parameters a step uses."""
        experiment = self.experiment
        if self.stage in TRAINED:
            return [getattr(experiment, TRAINED[self.stage])]
        return [experiment.unet] + [experiment.classifier] * experiment.sample.guided

    @property
    def microbatches(self) -> int:
        return self.config.microbatches if self.stage in TRAINED else 1

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the training, or steps of the sampler for each batch of images."""
        if self.stage in TRAINED:
            return self.config.num_steps
        grid = check_respacing(self.experiment.diffusion, self.config.respacing, self.config.timesteps)
        return len(grid.num_steps)

    @property
    def mesh_shape(self) -> tuple[int, int]:
        """Each host draws samples with its own devices alone, as `sharding.local_mesh` says."""
        mesh, topology = self.experiment.mesh, self.topology
        data, fsdp = mesh_shape(mesh.data, mesh.fsdp, topology.count)
        if self.stage == 'sample' and topology.hosts > 1:
            own = topology.count // topology.hosts
            fsdp = own if own % fsdp else fsdp
            data = own // fsdp
        return data, fsdp

    @property
    def num_devices(self) -> int:
        """The number of devices that share a batch."""
        return math.prod(self.mesh_shape)

    def changed(self, **sections: dict[str, Any]) -> Job:
        """The job with other settings, such as train={'microbatches': 4}."""
        replaced = {
            name: dataclasses.replace(getattr(self.experiment, name), **values)
            for name, values in sections.items()
        }
        return self._replace(experiment=dataclasses.replace(self.experiment, **replaced))

    def check(self) -> None:
        """UserError unless the mesh uses every device and the batch can be split over them."""
        key = f'{self.stage}.batch_size'
        key += f' / {self.stage}.microbatches' if self.microbatches > 1 else ''
        check_batch_size(
            AbstractMesh(self.mesh_shape, AXES), self.config.batch_size // self.microbatches, key
        )

    def program(self) -> Program:
        """The program for the devices of the topology, which need not exist."""
        return make_program(
            self.experiment,
            self.stage,
            make_mesh(*self.mesh_shape, self.topology.devices[: self.num_devices]),
        )


def make_program(experiment: Experiment, stage: str, mesh: Mesh) -> Program:
    """A training step, or a step of the sampler, as the stage runs it on a mesh."""
    unet, process, classifier = experiment.unet, experiment.diffusion, experiment.classifier
    low_res_size = experiment.data.low_res_size
    if stage == 'train':
        objective = diffusion_objective(unet, process, low_res_size)
        return train_program(objective, unet, experiment.train, mesh)
    if stage == 'train_classifier':
        objective = classifier_objective(classifier, process)
        return train_program(objective, classifier, experiment.train_classifier, mesh)
    networks = Networks(unet, process, classifier if experiment.sample.guided else None)
    recipe, batch_size = experiment.sample.as_recipe(), experiment.sample.batch_size
    return sample_program(networks, recipe, mesh, batch_size, low_res_size)
