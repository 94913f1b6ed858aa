"""What a step needs on each device: compiled for it, or by arithmetic."""

from __future__ import annotations

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
from jax.sharding import AbstractMesh

from diffusion_jax.devices import all_devices
from diffusion_jax.experiment import Experiment
from diffusion_jax.memory import is_out_of_memory
from diffusion_jax.models import param_shapes
from diffusion_jax.planning.collectives import exchanged, num_bytes
from diffusion_jax.planning.cost import Cost, estimate
from diffusion_jax.planning.jobs import TRAINED, Job, make_program
from diffusion_jax.sharding import AXES, MeshConfig, make_mesh, param_shardings

Result = TypeVar('Result')

logger = logging.getLogger(__name__)

STILL_COMPILING = 60  # seconds between messages
ESTIMATE_FITS = 0.9  # of a device's memory: estimates of trainings were 2 to 8 % low (docs/plan.md)
SAMPLING = 1.5  # temporaries of a sampler's step over those of `estimate`: 1.4 to 1.7 on H100 and TPU v5e


class Needs(NamedTuple):
    """What one step needs on each device.

    Attributes:
        arguments: bytes.
        temporaries: bytes, with results that do not take the place of an argument.
        flops: by kind; see `cost.Cost`.
        moved: bytes read from and written to memory.
        fits: None where the device's memory is unknown.
        exchanged: bytes of each kind of exchange between devices; None where nothing was compiled.
        seconds: how long it took to compile; None where nothing was compiled.
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


def estimated(job: Job, factor: float = 1.0) -> Needs:
    """What a step needs, by arithmetic.

    With fsdp a device also holds the parameters that it gathers.

    Args:
        factor: for the temporaries, such as what a compiler needed of another program, over its estimate.
    """
    cost, _, (first, *rest) = _traced(job)
    mesh = AbstractMesh(job.mesh_shape, AXES)
    parts = jax.tree.map(lambda leaf, sharding: _size(leaf, sharding), first, param_shardings(mesh, first))
    arguments = sum(jax.tree.leaves(parts)) + sum(map(_size, jax.tree.leaves(rest)))
    gathered = sum(map(_size, jax.tree.leaves([param_shapes(network) for network in job.networks])))
    compilers = 1.0 if job.stage in TRAINED else SAMPLING
    temporaries = factor * compilers * cost.temporaries + gathered * (job.mesh_shape[1] > 1)
    memory = job.topology.memory
    fits = None if memory is None else arguments + temporaries <= ESTIMATE_FITS * memory
    return Needs(arguments, temporaries, cost.flops, cost.num_bytes, fits)


def compiled(job: Job) -> Needs:
    """What a step needs, from the program compiled for the devices of the topology."""
    logger.info('%s: traces the program', job.stage)
    expected, (cost, once, _) = estimated(job), _traced(job)
    lowered = job.program().lower()
    start = time.perf_counter()
    try:
        program = _patiently(lowered.compile, f'{job.stage}: compiles for {job.topology.name}')
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        seconds = time.perf_counter() - start
        needed = max(_asked_for(error) - expected.arguments, expected.temporaries)
        return expected._replace(temporaries=needed, fits=False, exchanged={}, seconds=seconds)
    memory = program.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    # XLA counts the body of a loop over microbatches once.
    moved = program.cost_analysis()['bytes accessed'] * cost.num_bytes / once.num_bytes
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes + results
    available = job.topology.memory
    return Needs(
        arguments,
        temporaries,
        cost.flops,
        moved,
        None if available is None else arguments + temporaries <= available,
        {kind: sum(map(num_bytes, arrays)) for kind, arrays in exchanged(program.as_text()).items()},
        time.perf_counter() - start,
    )


def _traced(job: Job) -> tuple[Cost, Cost, Sequence[Any]]:
    """The cost of one device's part, the same with loops counted once, and the arguments of this part."""
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


def _patiently(call: Callable[[], Result], what: str) -> Result:
    """Runs a call that may take many minutes, with a message every minute. Ctrl-C does not wait for it."""
    logger.info('%s; large networks take minutes', what)
    future: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    start = time.perf_counter()
    threading.Thread(target=run, daemon=True).start()
    while not concurrent.futures.wait([future], STILL_COMPILING).done:
        logger.info('%s: for %.0f minutes by now', what, (time.perf_counter() - start) / 60)
    return future.result()


def _asked_for(error: Exception) -> float:
    """Bytes, of the first size in a compiler's message; 0 where it has none."""
    size = re.search(r'\b([\d.]+)([KMGT])\b', str(error))
    return float(size[1]) * 1024 ** ('KMGT'.index(size[2]) + 1) if size else 0.0
