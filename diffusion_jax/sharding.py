"""The device mesh, and the one rule by which arrays lie on it.

The mesh has two axes: a batch is split over both, large parameters (with their averages and moments) over
'fsdp' alone. Sizes (n, 1) are plain data parallelism, (1, n) fully sharded, anything between is both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion_jax.errors import UserError

# Leaves with fewer elements (biases, norms, tiny kernels) cost more to gather than to keep.
MIN_SHARDED_SIZE = 4096


@dataclass(frozen=True)
class MeshConfig:
    """How many ways batches are split (`data`; -1 is over all devices left) and parameters too (`fsdp`)."""

    data: int = -1
    fsdp: int = 1


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default all of every host.

    Raises:
        UserError: the sizes do not use each device exactly once.
    """
    devices = jax.devices() if devices is None else devices
    ways = len(devices) // fsdp if data == -1 and fsdp > 0 else data
    if ways < 1 or fsdp < 1 or ways * fsdp != len(devices):
        raise UserError(
            f'config.mesh has data={data}, fsdp={fsdp}; their product must be {len(devices)}, the number of '
            'devices (data=-1 takes all that fsdp leaves)'
        )
    # Explicit axes, the default of newer JAX, would ask a network's operations for their outputs' shardings.
    return jax.make_mesh((ways, fsdp), ('data', 'fsdp'), (AxisType.Auto, AxisType.Auto), devices=devices)


def this_hosts(mesh: Mesh) -> Mesh:
    """A mesh over this host's devices alone, for work that needs no other host's."""
    return mesh if jax.process_count() == 1 else make_mesh(devices=jax.local_devices())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of every array is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device has the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(mesh: Mesh, tree: Any) -> Any:
    """One sharding for each leaf of a tree of arrays or ShapeDtypeStructs: parameters or a whole train state.

    A leaf is split over 'fsdp' along the largest of its axes that the mesh divides; where there is none, and
    where the leaf is small, it is replicated.
    """
    ways = mesh.shape['fsdp']

    def rule(leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % ways == 0]
        if ways == 1 or leaf.size < MIN_SHARDED_SIZE or not divisible:
            return replicated(mesh)
        largest = max(divisible, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, 'fsdp'))

    return jax.tree.map(rule, tree)


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Host arrays → global arrays, split over all devices; each host gives its own part of the batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def check_batch_size(mesh: Mesh, batch_size: int, where: str) -> None:
    """UserError unless a batch of `batch_size`, the setting `where`, can be split over the devices."""
    if batch_size % mesh.size:
        devices = f'{mesh.size}, the number of devices'
        raise UserError(f'config.{where} is {batch_size}; it must be divisible by {devices}')
