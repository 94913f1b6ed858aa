"""The device mesh, and the one rule by which arrays are placed on it.

A batch is split over both axes of the mesh; large parameters, with their averages and moments, over 'fsdp'
alone. Sizes (n, 1) are plain data parallelism, (1, n) is fully sharded, anything between is both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError

# Leaves with fewer elements (biases, norms, tiny kernels) cost more to gather than to keep.
MIN_SHARDED_SIZE = 4096
AXES = ('data', 'fsdp')


@dataclass(frozen=True)
class MeshConfig:
    """How work is split over devices; `data` times `fsdp` is their number.

    Attributes:
        data: the number of parts into which batches alone are split; -1 uses all devices that fsdp leaves.
        fsdp: the number of parts into which parameters, averages and optimizer are split, and batches too.
    """

    data: int = -1
    fsdp: int = 1


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default those of all hosts. UserError unless the sizes use each once."""
    devices = all_devices() if devices is None else devices
    shape = mesh_shape(data, fsdp, len(devices))
    # Explicit axes, the default of newer JAX, would ask a network's operations for their outputs' shardings.
    return jax.make_mesh(shape, AXES, (AxisType.Auto, AxisType.Auto), devices=devices)


def mesh_shape(data: int, fsdp: int, num_devices: int) -> tuple[int, int]:
    """The sizes of the axes; see `make_mesh`."""
    ways = num_devices // fsdp if data == -1 and fsdp > 0 else data
    if ways < 1 or fsdp < 1 or ways * fsdp != num_devices:
        remedy = f'their product must be {num_devices}, the number of devices; data=-1 uses all that remain'
        raise UserError('config.mesh', f'got data={data}, fsdp={fsdp}', remedy)
    return ways, fsdp


def local_mesh(mesh: Mesh) -> Mesh:
    """A mesh over this host's devices, for work that needs no other host.

    It keeps the size of 'fsdp' if that divides the number of devices of the host. Otherwise 'fsdp' spans
    hosts, and becomes all devices of this one: each then holds a larger part of the parameters than in
    training, but no averages and no moments.
    """
    if jax.process_count() == 1:
        return mesh
    devices, fsdp = jax.local_devices(), mesh.shape['fsdp']
    return make_mesh(fsdp=len(devices) if len(devices) % fsdp else fsdp, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of every array is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Every device has the complete array."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(mesh: Mesh | AbstractMesh, tree: Any) -> Any:
    """One sharding for each leaf of a tree of arrays or ShapeDtypeStructs.

    A leaf is split over 'fsdp' along its largest axis that the mesh divides. Without such an axis, and if it
    is small, it is replicated.
    """
    ways = mesh.shape['fsdp']

    def rule(leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % ways == 0]
        if ways == 1 or leaf.size < MIN_SHARDED_SIZE or not divisible:
            return replicated(mesh)
        largest = max(divisible, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, 'fsdp'))

    return jax.tree.map(rule, tree)


def abstract_on(shardings: Any, tree: Any) -> Any:
    """A tree of arrays or ShapeDtypeStructs as ShapeDtypeStructs with these shardings.

    shardings: one for each leaf of the tree, or one for all leaves below it.
    """

    def place(sharding: NamedSharding, leaves: Any) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), leaves)

    return jax.tree.map(place, shardings, tree)


def gather_in_step(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(params, …)` on parameters that are gathered over 'fsdp', and whose gradient is split again.

    Every device then computes only its part of the batch (ZeRO, 1910.02054). Without this the compiler splits
    the arithmetic of some layers like their kernels, and gathers the batch for them. Gathering again for the
    backward pass took more memory, not less (experiments/results/tpu_compile.md).
    """

    @jax.custom_vjp
    def gather(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, replicated(mesh))

    def scatter(_: None, gradient: Any) -> tuple[Any]:
        return (jax.lax.with_sharding_constraint(gradient, param_shardings(mesh, gradient)),)

    gather.defvjp(lambda params: (gather(params), None), scatter)
    return lambda params, *arguments: function(gather(params), *arguments)


def gather_params(mesh: Mesh | None, params: Any, x: jax.Array) -> Any:
    """Parameters gathered over 'fsdp' for one evaluation of a network on x; see `gather_in_step`.

    A barrier ties each array to x. Otherwise the compiler would gather before a loop that changes x, and keep
    all parameters on every device until its end. So it may gather each array just before its layer.
    """
    if mesh is None or mesh.shape['fsdp'] == 1:
        return params
    x = jax.lax.stop_gradient(x)

    def gather(param: jax.Array) -> jax.Array:
        param, _ = jax.lax.optimization_barrier((param, x))
        return jax.lax.with_sharding_constraint(param, replicated(mesh))

    return jax.tree.map(gather, params)


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Host arrays → global arrays, split over all devices; each host gives its own part of the batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def put_global(mesh: Mesh, batch: Any) -> Any:
    """Host arrays, the same on every host → global arrays, split over all devices if their number divides
    the batch, otherwise replicated."""

    def put(array: np.ndarray) -> jax.Array:
        sharding = replicated(mesh) if len(array) % mesh.size else batch_sharding(mesh)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, batch)


def to_host(array: jax.Array) -> np.ndarray:
    """The complete array on every host. If it is sharded over several hosts, all must call this."""
    if not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def check_batch_size(mesh: Mesh | AbstractMesh, batch_size: int, where: str) -> None:
    """UserError unless a batch of `batch_size`, the setting `where`, can be split over the devices."""
    if batch_size % mesh.size:
        remedy = f'must be divisible by {mesh.size}, the number of devices'
        raise UserError(f'config.{where}', f'got {batch_size}', remedy)
