"""The matrix units of devices: bfloat16 operations a second at most, dense, with sums in float32."""

from __future__ import annotations

import jax

# By Device.device_kind; of TPU v2, v3 and 7 a device is one of a chip's two cores. Figures of NVIDIA's data
# sheets and of Google's pages on each TPU.
PEAKS = {
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA A100 80GB PCIe': 312e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA B200': 2250e12,
    'NVIDIA L4': 121e12,
    'NVIDIA GeForce RTX 3090': 71e12,
    'NVIDIA GeForce RTX 4090': 165e12,
    'TPU v2': 23e12,
    'TPU v3': 61.5e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
    'TPU7x': 1153e12,
}


def peak_of(device: jax.Device) -> float | None:
    """None for CPUs and for devices that are not in the table."""
    return PEAKS.get(device.device_kind)
