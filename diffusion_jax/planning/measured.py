"""How near to the roofline's bound programs came where they were timed; GPUs are planned by it."""

from __future__ import annotations

from typing import NamedTuple


class Measured(NamedTuple):
    """A program that was timed on one device.

    Attributes:
        milliseconds: median of a step.
        bound: milliseconds that `diffusion-jax plan` says a step of the same code takes at least.
    """

    chip: str
    config: str
    stage: str
    batch_size: int
    milliseconds: float
    bound: float


# 27 November 2026, JAX 0.11.2, both networks in bfloat16 (experiments/results/gpu.md).
MEASURED = (
    Measured('h100', 'imagenet64', 'sample', 64, 53.5, 23.8),
    Measured('h100', 'imagenet256', 'sample', 16, 93.3, 41.1),
    Measured('h100', 'imagenet64', 'train', 64, 136.3, 50.8),
    Measured('h100', 'imagenet256', 'train', 16, 259.6, 113.0),
)


def slowdowns() -> tuple[float, float]:
    """How many times the bound the measured steps took: the least and the most."""
    ratios = [row.milliseconds / row.bound for row in MEASURED]
    return min(ratios), max(ratios)
