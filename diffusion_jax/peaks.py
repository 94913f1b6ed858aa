"""What devices can do at most, by the name that JAX gives them."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Peak(NamedTuple):
    """Of one device of JAX, which on TPU v2, v3 and 7 is one of a chip's two cores.

    Attributes:
        flops: bfloat16 operations a second of its matrix units, dense, with sums in float32.
        bandwidth: bytes a second of its memory.
        memory: bytes.
    """

    flops: float
    bandwidth: float
    memory: float


# By Device.device_kind. Figures of NVIDIA's data sheets and of Google's pages on each TPU.
PEAKS = {
    'NVIDIA A100-SXM4-40GB': Peak(312e12, 1.555e12, 40e9),
    'NVIDIA A100-SXM4-80GB': Peak(312e12, 2.039e12, 80e9),
    'NVIDIA A100 80GB PCIe': Peak(312e12, 1.935e12, 80e9),
    'NVIDIA H100 PCIe': Peak(756e12, 2.0e12, 80e9),
    'NVIDIA H100 80GB HBM3': Peak(989e12, 3.35e12, 80e9),
    'NVIDIA H200': Peak(989e12, 4.8e12, 141e9),
    'NVIDIA B200': Peak(2250e12, 8.0e12, 180e9),
    'NVIDIA L4': Peak(121e12, 0.3e12, 24e9),
    'NVIDIA GeForce RTX 3090': Peak(71e12, 0.936e12, 24e9),
    'NVIDIA GeForce RTX 4090': Peak(165e12, 1.008e12, 24e9),
    'TPU v2': Peak(23e12, 0.35e12, 8e9),
    'TPU v3': Peak(61.5e12, 0.45e12, 16e9),
    'TPU v4': Peak(275e12, 1.2e12, 32e9),
    'TPU v5 lite': Peak(197e12, 0.82e12, 16e9),
    'TPU v5': Peak(459e12, 2.765e12, 95e9),
    'TPU v6 lite': Peak(918e12, 1.64e12, 32e9),
    'TPU7x': Peak(1153e12, 3.69e12, 96e9),
}


def peak_of(device: jax.Device) -> Peak | None:
    """None for CPUs and for devices that are not in the table."""
    return PEAKS.get(device.device_kind)
