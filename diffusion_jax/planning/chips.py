"""Chips, from their data sheets, and how near to the bound programs came on one of them.

Rates are of dense products. Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} and NVIDIA's data sheets of
T4, L4, A100 (SXM), H100 (SXM) and H200 (SXM).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Chip(NamedTuple):
    """One device.

    Attributes:
        kind: words that `jax.Device.device_kind` contains.
        memory: bytes.
        bandwidth: bytes a second.
        bfloat16: FLOP/s. The T4 has no bfloat16: XLA computes it in float32 there.
        float32: FLOP/s at precision 'highest'.
        default: FLOP/s in float32 at precision 'default' and 'high': TF32, or bfloat16 on a TPU.
        host: chips of the largest host along each axis, where programs can be compiled without the chip.
    """

    name: str
    kind: str
    memory: float
    bandwidth: float
    bfloat16: float
    float32: float
    default: float
    host: tuple[int, ...] = ()

    def rate(self, kind: str) -> float:
        """FLOP/s of a kind of product, as `cost.Cost` names it."""
        rates = {'bfloat16': self.bfloat16, 'float32 highest': self.float32}
        return rates.get(kind, self.default)

    def seconds_of(self, flops: Mapping[str, float]) -> float:
        return sum(number / self.rate(kind) for kind, number in flops.items())


def _tpu(name: str, kind: str, memory: float, bandwidth: float, tflops: float, host: tuple[int, ...]) -> Chip:
    """A float32 product at 'highest' is six of bfloat16."""
    rate = tflops * 1e12
    return Chip(name, kind, memory * 1e9, bandwidth * 1e9, rate, rate / 6, rate, host)


def _gpu(name: str, kind: str, memory: float, bandwidth: float, *tflops: float) -> Chip:
    return Chip(name, kind, memory * 1e9, bandwidth * 1e9, *(1e12 * rate for rate in tflops))


CHIPS = {
    'v4': _tpu('TPU v4', 'TPU v4', 32, 1228, 275, ()),  # libtpu describes its two cores as two devices
    'v5e': _tpu('TPU v5e', 'TPU v5 lite', 16, 819, 197, (2, 4)),
    'v5p': _tpu('TPU v5p', 'TPU v5', 95, 2765, 459, (2, 2, 1)),
    'v6e': _tpu('TPU v6e', 'TPU v6 lite', 32, 1640, 918, (2, 4)),
    't4': _gpu('T4', 'T4', 16, 320, 8.1, 8.1, 8.1),
    'l4': _gpu('L4', 'L4', 24, 300, 121, 30.3, 60),
    'a100-40': _gpu('A100, 40 GB', 'A100-SXM4-40GB', 40, 1555, 312, 19.5, 156),
    'a100': _gpu('A100, 80 GB', 'A100-SXM4-80GB', 80, 2039, 312, 19.5, 156),
    'h100': _gpu('H100', 'H100 80GB HBM3', 80, 3350, 989, 67, 495),
    'h200': _gpu('H200', 'H200', 141, 4800, 989, 67, 495),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if the table does not have it."""
    found = [chip for chip in CHIPS.values() if re.search(rf'\b{chip.kind}\b', device_kind)]
    return max(found, key=lambda chip: len(chip.kind), default=None)


class Measured(NamedTuple):
    """A program that was timed on one device; `bound` is what `plan` gave for it at that commit.

    Attributes:
        milliseconds: median of a step.
        bound: milliseconds that the step takes at least.
    """

    chip: str
    config: str
    stage: str
    batch_size: int
    milliseconds: float
    bound: float


# 26 November 2026, one H100 (SXM, 80 GB), JAX 0.11.2, both networks in bfloat16.
MEASURED = (
    Measured('h100', 'imagenet64', 'sample', 64, 89.8, 62.2),
    Measured('h100', 'imagenet256', 'sample', 16, 112.7, 55.5),
    Measured('h100', 'imagenet256', 'train', 16, 303.0, 155.6),
)


def measured_slowdown() -> tuple[float, float]:
    """How many times the bound steps took that were measured: the least and the most."""
    ratios = [row.milliseconds / row.bound for row in MEASURED]
    return min(ratios), max(ratios)
