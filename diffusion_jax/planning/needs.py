"""What a step of a stage needs on each device: compiled for it, or estimated."""

import collections
import concurrent.futures
import dataclasses
import functools
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh

from diffusion_jax.devices import all_devices
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.program import sample_program
from diffusion_jax.memory import is_out_of_memory
from diffusion_jax.planning.collectives import BYTES, exchanged
from diffusion_jax.planning.cost import Cost, estimate
from diffusion_jax.planning.topology import Topology
from diffusion_jax.program import Program
from diffusion_jax.sharding import AXES, MeshConfig, check_batch_size, make_mesh, mesh_shape, param_shardings
from diffusion_jax.training.objectives import classifier_objective, diffusion_objective
from diffusion_jax.training.program import train_program

Result = TypeVar('Result')

logger = logging.getLogger(__name__)

TRAINED = {'train': 'unet', 'train_classifier': 'classifier'}  # the network that a stage trains
PLANNED = (*TRAINED, 'sample')
ESTIMATE_FITS = 0.9  # of a device's memory: estimates of trainings were 2 to 8 % low (docs/plan.md)
SAMPLING = 1.5  # temporaries of a sampler's step over those of `estimate`: 1.4 to 1.7 on H100 and TPU v5e


class Job(NamedTuple):
    """A stage of an experiment on the devices of a topology; `changes` are settings unlike the config's."""

    experiment: Experiment
    stage: str
    topology: Topology
    changes: dict[str, dict[str, Any]] | None = None

    @property
    def config(self) -> Any:
        """The section of the stage, which gives the batch size."""
        return getattr(self.experiment, self.stage)

    @property
    def microbatches(self) -> int:
        return self.config.microbatches if self.stage in TRAINED else 1

    @property
    def mesh_shape(self) -> tuple[int, int]:
        """Each host samples with its own devices alone, like `sharding.local_mesh`."""
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

    def changed(self, **sections: dict[str, Any]) -> 'Job':
        """The job with other settings, such as train={'microbatches': 4}."""
        replaced = {
            name: dataclasses.replace(getattr(self.experiment, name), **values)
            for name, values in sections.items()
        }
        return self._replace(experiment=dataclasses.replace(self.experiment, **replaced), changes=sections)

    def check(self) -> None:
        """UserError unless the mesh uses every device and the batch can be split over them."""
        key = f'{self.stage}.batch_size'
        key += f' / {self.stage}.microbatches' if self.microbatches > 1 else ''
        size = self.config.batch_size // self.microbatches
        check_batch_size(AbstractMesh(self.mesh_shape, AXES), size, key)


class Needs(NamedTuple):
    """What one step needs on each device.

    Attributes:
        arguments: bytes.
        temporaries: bytes, with results that do not take the place of an argument.
        flops: see `Cost.flops`.
        moved: bytes read from and written to memory.
        fits: None where the device's memory is unknown.
        exchanged: bytes of each kind of exchange between devices; None where nothing was compiled.
        seconds: of the compilation; None where nothing was compiled.
    """

    arguments: float
    temporaries: float
    flops: collections.Counter[str]
    moved: float
    fits: bool | None
    exchanged: dict[str, int] | None = None
    seconds: float | None = None

    @property
    def peak(self) -> float:
        return self.arguments + self.temporaries


def make_program(experiment: Experiment, stage: str, mesh: Mesh) -> Program:
    """A training step, or a step of the sampler, as the stage runs it; the mesh's devices need not exist."""
    process, low_res_size = experiment.diffusion, experiment.data.low_res_size
    config, network = getattr(experiment, stage), getattr(experiment, TRAINED.get(stage, 'unet'))
    if stage == 'sample':
        networks = Networks(network, process, experiment.classifier if config.guided else None)
        return sample_program(networks, config.as_recipe(), mesh, config.batch_size, low_res_size)
    if stage == 'train':
        objective = diffusion_objective(network, process, low_res_size, config.low_res_noise)
        return train_program(objective, network, config, mesh)
    return train_program(classifier_objective(network, process), network, config, mesh)


def estimated(job: Job, factor: float = 1.0) -> Needs:
    """What a step needs, by arithmetic. With fsdp a device also holds the parameters that it gathers.

    factor: for the temporaries, such as those of a compiled program over their estimate.
    """
    cost, _, (first, *rest) = _traced(job)
    shardings = param_shardings(AbstractMesh(job.mesh_shape, AXES), first)
    arguments = sum(map(_size, jax.tree.leaves(first), jax.tree.leaves(shardings)))
    arguments += sum(map(_size, jax.tree.leaves(rest)))
    gathered = sum(map(_size, jax.tree.leaves(getattr(first, 'params', first))))
    factor *= 1.0 if job.stage in TRAINED else SAMPLING
    temporaries = factor * cost.temporaries + gathered * (job.mesh_shape[1] > 1)
    memory = job.topology.memory
    fits = None if memory is None else arguments + temporaries <= ESTIMATE_FITS * memory
    return Needs(arguments, temporaries, cost.flops, cost.num_bytes, fits)


def compiled(job: Job) -> Needs:
    """What a step needs, from the program compiled for the devices of the topology."""
    logger.info('%s: tracing', job.stage)
    expected, (cost, once, _) = estimated(job), _traced(job)
    mesh = make_mesh(*job.mesh_shape, job.topology.devices[: job.num_devices])
    lowered = make_program(job.experiment, job.stage, mesh).lower()
    start = time.perf_counter()
    try:
        program = _with_progress(lowered.compile, f'{job.stage}: compiling for {job.topology.name}')
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size = re.search(r'\b([\d.]+)([KMGT])\b', str(error))  # of all that the program needs
        needed = float(size[1]) * 1024 ** ('KMGT'.index(size[2]) + 1) if size else 0.0
        temporaries = max(needed - expected.arguments, expected.temporaries)
        seconds = time.perf_counter() - start
        return expected._replace(temporaries=temporaries, fits=False, exchanged={}, seconds=seconds)
    memory: Any = program.memory_analysis()
    cost_analysis: Any = program.cost_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    needs = expected._replace(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + results,
        # XLA counts the body of the loop over microbatches once.
        moved=cost_analysis['bytes accessed'] * cost.num_bytes / once.num_bytes,
        exchanged={
            kind: sum(BYTES[dtype] * math.prod(shape) for dtype, shape in arrays)
            for kind, arrays in exchanged(program.as_text() or '').items()
        },
        seconds=time.perf_counter() - start,
    )
    return needs._replace(fits=needs.peak <= job.topology.memory if job.topology.memory else None)


def _traced(job: Job) -> tuple[Cost, Cost, Sequence[Any]]:
    """The cost of one device's share, the same with loops counted once, and the arguments of this share."""
    batch_size = job.config.batch_size // job.num_devices
    alone = job.changed(**{job.stage: {'batch_size': batch_size}}).experiment
    chip = job.topology.chip
    fused_attention = chip is not None and chip.fuses_attention
    return _trace(dataclasses.replace(alone, mesh=MeshConfig()), job.stage, fused_attention)


@functools.lru_cache
def _trace(experiment: Experiment, stage: str, fused_attention: bool) -> tuple[Cost, Cost, Sequence[Any]]:
    program = make_program(experiment, stage, make_mesh(devices=all_devices()[:1]))
    jaxpr = program.jitted.trace(*program.arguments).jaxpr.jaxpr
    every, once = (estimate(jaxpr, loops_once, fused_attention) for loops_once in (False, True))
    return every, once, program.arguments


def _size(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | None = None) -> int:
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _with_progress(call: Callable[[], Result], what: str, minute: float = 60) -> Result:
    """Runs a call that may take many minutes, with a message every minute; Ctrl-C does not wait for it."""
    logger.info('%s; large networks take minutes', what)
    future: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    minutes = 0
    while not concurrent.futures.wait([future], minute).done:
        minutes += 1
        logger.info('%s, %d minutes so far', what, minutes)
    return future.result()
