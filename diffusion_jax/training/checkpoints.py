"""Reading the checkpoints of a training. `saving` writes them.

A checkpoint is a folder `<step>` of items that can be read separately: `params`, one `ema_<rate>` for every
average, `training` (optimizer, timestep sampler, key), and as JSON `network` (the architecture), `progress`
(position in the data, metrics that are not logged yet) and `digests`: Orbax restores flipped bits silently.

Training resumes from the newest intact one. Other readers refuse a damaged one: results name their step.
"""

import errno
import json
import math
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError, reason
from diffusion_jax.hosts import any_process
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig, network_differences, network_of
from diffusion_jax.sharding import abstract_on, make_mesh, param_shardings

# TensorStore reads a backslash as a slash, etils 'gs:/' as a bucket; Orbax uses the path in glob patterns.
UNUSABLE = ('\\', 'gs:/', '*', '?', '[')
# Error numbers and status prefixes (TensorStore, JAX) of an intact checkpoint that cannot be read now.
MISSING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
NOT_DAMAGE = ('UNKNOWN', 'PERMISSION_DENIED', 'UNAVAILABLE', 'ABORTED', 'RESOURCE_EXHAUSTED')


class DamagedCheckpoint(UserError):
    """A checkpoint that is not as it was written."""

    def __init__(self, folder: Path, why: str):
        remedy = 'move this folder away and run its training again, which resumes from an earlier checkpoint'
        super().__init__(str(folder), f'damaged ({why})', remedy)


def check_path(path: str | Path) -> None:
    """UserError where Orbax loses checkpoints of a path. Symbolic links are not resolved."""
    text = str(Path(path).absolute())
    for part in UNUSABLE:
        if part in text:
            remedy = 'rename the folder, or use a symbolic link to it'
            raise UserError(text, f'cannot store checkpoints, because the path contains {part!r}', remedy)


def latest_step(directory: Path) -> int | None:
    """The newest step in a folder of checkpoints; None without a folder or a checkpoint."""
    return max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None


def read_network(directory: Path) -> UNetConfig | ClassifierConfig:
    """The architecture of the network in the newest checkpoint."""
    return network_of(read(directory, _require_step(directory), {}, ('network',))[1]['network'])


def _require_step(directory: Path) -> int:
    step = latest_step(directory)
    if step is None:
        raise UserError(str(directory), 'contains no checkpoint', 'train the network first')
    return step


def check_checkpoint(directory: Path, config: UNetConfig | ClassifierConfig, ema_rate: float = 0.0) -> int:
    """The step of the newest checkpoint. UserError unless it is of this architecture and has the average.

    ema_rate: the rate of an average; 0 for the parameters themselves.
    """
    wrong = network_differences(read_network(directory), config)
    step = _require_step(directory)
    folder = Path(directory).absolute() / str(step)
    if wrong:
        raise UserError(str(folder), f'another network: {"; ".join(wrong)}')
    items = sorted(path.name for path in folder.iterdir() if path.name.startswith(('ema_', 'params')))
    if _item(ema_rate) not in items:
        problem = f'contains no {_item(ema_rate)}, only {", ".join(items)}'
        raise UserError(str(folder), problem, 'use the rate of one of these, or 0 for params')
    return step


def load_params(
    directory: Path, config: Any, ema_rate: float = 0.0, mesh: Mesh | None = None
) -> tuple[Params, int]:
    """Parameters of the newest checkpoint and its step, after `check_checkpoint`.

    mesh: the parameters are placed on it by `param_shardings`; by default on the first device.

    Raises UserError also if the checkpoint is damaged, or a parameter is not finite.
    """
    step = check_checkpoint(directory, config, ema_rate)
    shapes, item = models.param_shapes(config), _item(ema_rate)
    shardings = param_shardings(mesh or make_mesh(devices=all_devices()[:1]), shapes)
    params = read(directory, step, {item: abstract_on(shardings, shapes)}, ())[0][item]
    all_finite = jax.jit(lambda tree: jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree))(params)
    for name, finite in traverse_util.flatten_dict(all_finite, sep='/').items():
        if not finite:
            folder, problem = directory / str(step), f'{name} of {item} is not finite'
            raise UserError(str(folder), problem, 'train again from an earlier checkpoint')
    return params, step


def _item(ema_rate: float) -> str:
    return f'ema_{ema_rate}' if ema_rate else 'params'


def read(
    directory: Path, step: int, targets: dict[str, Any], records: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items of arrays and JSON records by name, checked against their digests.

    targets: by item a tree of ShapeDtypeStruct. Hosts that share their shardings read together, and all raise
        where one does.

    Raises:
        DamagedCheckpoint: something is missing or is not what was written.
        UserError: it cannot be read for another reason, such as an I/O error or too little memory.
    """
    all_devices()  # raises where there are none, which is no damage
    check_path(directory)
    shared = any(not leaf.sharding.is_fully_addressable for leaf in jax.tree.leaves(targets))
    folder = Path(directory).absolute() / str(step)
    error: UserError | None = None
    restored: Any = None
    try:
        restored = _restore(folder, targets, records)
    except Exception as caught:  # Orbax raises all kinds, even plain Exception
        error = _classify(folder, caught)
    _raise_together(folder, error, shared)
    items, found = ({name: restored[name] for name in names} for names in (targets, records))
    stored = restored['digests']
    # Older checkpoints have no checksums of records.
    computed = {name: value for name, value in digests(items, found).items() if name in {**targets, **stored}}
    changed = [name for name, value in computed.items() if stored.get(name) != value]
    error = DamagedCheckpoint(folder, f'{changed[0]} is not what was written') if changed else None
    _raise_together(folder, error, shared)
    return items, found


def _restore(folder: Path, targets: dict[str, Any], records: tuple[str, ...]) -> Any:
    """Reads without barriers between hosts: an error on one does not block the others inside Orbax."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    options = ocp.CompositeOptions(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler(composite_options=options)
    args = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
    args |= {name: ocp.args.JsonRestore() for name in (*records, 'digests')}
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        return checkpointer.restore(folder, args=ocp.args.Composite(**args))


def _classify(folder: Path, error: Exception) -> UserError:
    """Damage, unless the error would also occur with intact files."""
    cause = error.__cause__ or error  # TensorStore's error, which begins with its status
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno not in MISSING)
        or str(cause).startswith(NOT_DAMAGE)
    ):
        remedy = 'the checkpoint is probably intact and was not moved; fix the cause and rerun the command'
        return UserError(str(folder), f'cannot be read ({reason(cause)})', remedy)
    return DamagedCheckpoint(folder, f'cannot be read: {reason(cause)}')


def _raise_together(folder: Path, error: UserError | None, shared: bool) -> None:
    """Raises `error`; where hosts read together, all raise if one does."""
    agree = any_process if shared else bool
    damaged = isinstance(error, DamagedCheckpoint)
    if agree(error is not None and not damaged):
        raise error if error and not damaged else UserError(str(folder), 'another host cannot read it')
    if agree(damaged):
        raise error or DamagedCheckpoint(folder, 'on another host')


def digests(items: dict[str, Any], records: dict[str, Any]) -> dict[str, Any]:
    """The digests of every item of arrays, and the CRC-32 of every JSON record."""
    checksums = {
        name: zlib.crc32(json.dumps(value, sort_keys=True).encode()) for name, value in records.items()
    }
    return {name: digest(tree) for name, tree in items.items()} | checksums


def digest(tree: Any) -> dict[str, int]:
    """Path of a leaf → Σ hash(bits, index) mod 2³² over its elements."""
    numbers = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        numbers[jax.tree_util.keystr(path)] = number = _digest(leaf)
        if jax.default_backend() == 'cpu':
            # Programs with collectives that run at the same time would starve each other there.
            number.block_until_ready()
    return {path: int(number) for path, number in jax.device_get(numbers).items()}


@jax.jit  # of one leaf: compiled once for every shape, not for every tree
def _digest(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    bits = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}').astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        stride = math.prod(leaf.shape[axis + 1 :]) % 2**32
        index += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
    # Mixed so that two changes cannot cancel in the sum, as two changed signs would in a linear one.
    mixed = (bits ^ (index * jnp.uint32(2654435761))) * jnp.uint32(2246822519)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(3266489917)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
