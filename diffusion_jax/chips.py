"""What devices can do at most, from NVIDIA's data sheets and Google's pages on each TPU."""

from collections.abc import Mapping
from typing import NamedTuple


class Chip(NamedTuple):
    """One device. Rates are of dense products with sums in float32.

    Attributes:
        kind: its `jax.Device.device_kind`.
        memory: bytes.
        bandwidth: of its memory, bytes a second.
        bfloat16: FLOP/s. GPUs that have no bfloat16 compute it in float32.
        high: FLOP/s in float32 at precision 'high': TF32, or three passes of bfloat16 on a TPU.
        highest: FLOP/s in float32 at precision 'highest': on a TPU six passes of bfloat16.
        host: chips of the largest host along each axis, if libtpu can compile for them.
    """

    kind: str
    memory: float
    bandwidth: float
    bfloat16: float
    high: float
    highest: float
    host: tuple[int, ...] = ()

    @property
    def is_tpu(self) -> bool:
        return self.kind.startswith('TPU')

    @property
    def fuses_attention(self) -> bool:
        """Whether it is a GPU for which cuDNN has attention in bfloat16 as one kernel."""
        return not self.is_tpu and self.bfloat16 > self.high

    def least_seconds(self, flops: Mapping[str, float]) -> float:
        """The time of products at peak rate; `flops` as in `planning.cost.Cost`."""
        rates = {'bfloat16': self.bfloat16, 'float32 highest': self.highest}
        return sum(number / rates.get(kind, self.high) for kind, number in flops.items())


def _tpu(kind: str, memory: float, bandwidth: float, tflops: float, host: tuple[int, ...] = ()) -> Chip:
    """GB, GB/s and TFLOP/s in bfloat16."""
    rate = tflops * 1e12
    return Chip(kind, memory * 1e9, bandwidth * 1e9, rate, rate / 3, rate / 6, host)


def _gpu(kind: str, memory: float, bandwidth: float, bfloat16: float, high: float, highest: float) -> Chip:
    """GB, GB/s and TFLOP/s in bfloat16, TF32 and float32."""
    return Chip(kind, memory * 1e9, bandwidth * 1e9, 1e12 * bfloat16, 1e12 * high, 1e12 * highest)


# By the names that `diffusion-jax plan --topology` takes.
CHIPS = {
    # Of TPU v2, v3 and 7 a device is one of a chip's two cores; libtpu also describes those of v4 as two.
    'v2': _tpu('TPU v2', 8, 350, 23),
    'v3': _tpu('TPU v3', 16, 450, 61.5),
    'v4': _tpu('TPU v4', 32, 1228, 275),
    'v5e': _tpu('TPU v5 lite', 16, 819, 197, (2, 4)),
    'v5p': _tpu('TPU v5', 95, 2765, 459, (2, 2, 1)),
    'v6e': _tpu('TPU v6 lite', 32, 1640, 918, (2, 4)),
    'v7': _tpu('TPU7x', 96, 3690, 1153),
    't4': _gpu('Tesla T4', 16, 320, 8.1, 8.1, 8.1),
    'rtx3090': _gpu('NVIDIA GeForce RTX 3090', 24, 936, 71, 35.6, 35.6),
    'l4': _gpu('NVIDIA L4', 24, 300, 121, 60, 30.3),
    'rtx4090': _gpu('NVIDIA GeForce RTX 4090', 24, 1008, 165, 82.6, 82.6),
    'a100-40': _gpu('NVIDIA A100-SXM4-40GB', 40, 1555, 312, 156, 19.5),
    'a100-pcie': _gpu('NVIDIA A100 80GB PCIe', 80, 1935, 312, 156, 19.5),
    'a100': _gpu('NVIDIA A100-SXM4-80GB', 80, 2039, 312, 156, 19.5),
    'h100-pcie': _gpu('NVIDIA H100 PCIe', 80, 2000, 756, 378, 51),
    'h100': _gpu('NVIDIA H100 80GB HBM3', 80, 3350, 989, 495, 67),
    'h200': _gpu('NVIDIA H200', 141, 4800, 989, 495, 67),
    'b200': _gpu('NVIDIA B200', 180, 8000, 2250, 1125, 75),
}


def chip_of(device_kind: str) -> Chip | None:
    """None for CPUs and for devices that are not in the table."""
    return next((chip for chip in CHIPS.values() if chip.kind == device_kind), None)
