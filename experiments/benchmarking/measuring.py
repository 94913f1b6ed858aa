"""Compiles a program and measures what a call of it needs."""

import time
from typing import NamedTuple

import jax
from benchmarking.programs import Case


class Compiled(NamedTuple):
    call: jax.stages.Compiled
    trace_seconds: float
    compile_seconds: float

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of a call on one device, its arguments included; None where the compiler does not say."""
        memory = self.call.memory_analysis()
        if memory is None:
            return None
        buffers = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        return buffers - memory.alias_size_in_bytes


class Running:
    """A compiled program with its arguments on the device."""

    def __init__(self, case: Case, compiled: Compiled):
        self.arguments = case.arguments()
        self.call, self.consumes, self.steps = compiled.call, case.consumes, case.steps

    def seconds(self) -> float:
        """The time of a step: that of one call, until its results are complete, divided by its steps."""
        called = time.perf_counter()
        result = jax.block_until_ready(self.call(*self.arguments))
        seconds = time.perf_counter() - called
        if self.consumes:
            self.arguments = (result[0], *self.arguments[1:])
        return seconds / self.steps


def compile_case(case: Case) -> Compiled:
    """Traces and compiles, or loads from JAX's compilation cache; no arguments are made."""
    start = time.perf_counter()
    lowered = case.program.lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    return Compiled(compiled, traced - start, time.perf_counter() - traced)


def count_flops(case: Case) -> float | None:
    """FLOPs of a call; None where JAX_PLATFORMS shuts out the CPU, or XLA does not say.

    It traces the function again, and JAX would remember that: compile first.
    """
    try:
        cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend='cpu')[0])
    except RuntimeError:
        return None
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=cpu), case.program.arguments
    )
    cost = jax.jit(case.function).lower(*arguments).cost_analysis()
    return cost and cost.get('flops')
