"""What a training step costs, for the log: parameters, FLOPs, and the least time for them."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax.sharding import Mesh

from diffusion_jax.chips import chip_of
from diffusion_jax.flops import count_flops
from diffusion_jax.program import Program


class StepCost(NamedTuple):
    """Of one training step.

    Attributes:
        parameters: their number.
        flops: of the step, on all devices together; see `count_flops`.
        seconds: the least time, at the bfloat16 peak of the devices; None where it is unknown.
    """

    parameters: int
    flops: float
    seconds: float | None


def step_cost(program: Program, mesh: Mesh) -> StepCost:
    """The cost of `train_program`. Traces it; the first call uses the same trace, and compiles it."""
    flops = count_flops(program.jitted.trace(*program.arguments).jaxpr)
    chips = [chip_of(device.device_kind) for device in mesh.devices.flat]
    seconds = flops / sum(chip.bfloat16 for chip in chips) if all(chips) else None
    return StepCost(sum(leaf.size for leaf in jax.tree.leaves(program.arguments[0].params)), flops, seconds)


def describe_cost(cost: StepCost, mesh: Mesh) -> str:
    """A line for the log."""
    text = f'{cost.parameters:,} parameters, {cost.flops / 1e12:.3g} TFLOP a step'
    if cost.seconds is None:
        return text
    devices = f'{mesh.size} {mesh.devices.flat[0].device_kind}'
    return f'{text}, at least {1000 * cost.seconds:.3g} ms at the bfloat16 peak of {devices}'
