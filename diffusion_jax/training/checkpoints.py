"""Reading the checkpoints of a training. `saving` writes them.

A checkpoint is a folder `<step>` of items that can be read separately: `params`, one `ema_<rate>` for every
average, `training` (optimizer, timestep sampler, key), and as JSON `network` (the architecture), `progress`
(position in the data, metrics that are not logged yet) and `digests`, which reveal damage that Orbax does not
detect.

Training resumes from the newest intact checkpoint. All other readers refuse a damaged one: a result names the
step that it depends on, and must not silently use another.
"""

from __future__ import annotations

import errno
import json
import zlib
from collections.abc import Iterator
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
from diffusion_jax.training.digest import digest

# TensorStore reads a backslash as a slash, etils 'gs:/' as a bucket; Orbax uses the path in glob patterns.
UNUSABLE = ('\\', 'gs:/', '*', '?', '[')
# Error numbers and status prefixes (TensorStore, JAX) of an intact checkpoint that cannot be read now.
MISSING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
NOT_DAMAGE = ('UNKNOWN', 'PERMISSION_DENIED', 'UNAVAILABLE', 'ABORTED', 'RESOURCE_EXHAUSTED')


class DamagedCheckpoint(UserError):
    """A checkpoint that is not as it was written; `reason` says why."""

    def __init__(self, folder: Path, reason: str):
        remedy = 'move this folder away and run its training again, which resumes from an earlier checkpoint'
        super().__init__(str(folder), f'damaged ({reason})', remedy)
        self.reason = reason


def check_path(path: str | Path) -> None:
    """UserError where Orbax loses checkpoints of a path. Symbolic links are not resolved."""
    text = str(Path(path).absolute())
    bad = [repr(part) for part in UNUSABLE if part in text]
    if text.encode(errors='replace').decode() != text:
        bad.append('bytes that are not UTF-8')
    if bad:
        remedy = 'rename the folder, or use a symbolic link to it'
        raise UserError(repr(text), f'cannot store checkpoints, because the path contains {bad[0]}', remedy)


def latest_step(directory: Path) -> int | None:
    """The newest step in a folder of checkpoints; None without a folder or a checkpoint."""
    return max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None


def read_network(directory: Path) -> UNetConfig | ClassifierConfig:
    """The architecture of the network in the newest checkpoint."""
    step = latest_step(directory)
    if step is None:
        raise UserError(str(directory), 'contains no checkpoint', 'train the network first')
    return network_of(read(directory, step, {}, ('network',))[1]['network'])


def check_checkpoint(directory: Path, config: UNetConfig | ClassifierConfig, ema_rate: float = 0.0) -> int:
    """The step of the newest checkpoint, after checking its network and averages.

    ema_rate: the rate of an average; 0 for the parameters themselves.

    Raises:
        UserError: no checkpoint, another architecture, or no average of this rate.
    """
    wrong = network_differences(read_network(directory), config)
    step = latest_step(directory)
    folder = Path(directory).absolute() / str(step)
    if wrong:
        raise UserError(str(folder), f'another network: {"; ".join(wrong)}')
    items = sorted(path.name for path in folder.iterdir() if path.name.startswith(('ema_', 'params')))
    if _item(ema_rate) not in items:
        raise UserError(
            str(folder),
            f'contains no {_item(ema_rate)}, only {", ".join(items)}',
            'use the rate of one of these, or 0 for params',
        )
    return step


def load_params(
    directory: Path, config: Any, ema_rate: float = 0.0, mesh: Mesh | None = None
) -> tuple[Params, int]:
    """Parameters of the newest checkpoint and its step, after `check_checkpoint`.

    mesh: the parameters are placed on it by `param_shardings`; by default on the first device.

    Raises:
        UserError: see `check_checkpoint`; or the checkpoint is damaged, or a parameter is not finite.
    """
    step = check_checkpoint(directory, config, ema_rate)
    params = _read_params(directory, step, ema_rate, config, mesh or make_mesh(devices=all_devices()[:1]))
    for name, finite in traverse_util.flatten_dict(_finite(params), sep='/').items():
        if not finite:
            raise UserError(
                str(Path(directory).absolute() / str(step)),
                f'{name} of {_item(ema_rate)} is not finite',
                'train again from an earlier checkpoint',
            )
    return params, step


@jax.jit
def _finite(params: Params) -> Any:
    """Whether each array is finite; the same on all hosts."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params)


def _read_params(directory: Path, step: int, ema_rate: float, config: Any, mesh: Mesh) -> Params:
    shapes, item = models.param_shapes(config), _item(ema_rate)
    return read(directory, step, {item: abstract_on(param_shardings(mesh, shapes), shapes)}, ())[0][item]


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
    folder, error, restored = Path(directory).absolute() / str(step), None, None
    try:
        restored = _restore(folder, targets, records)
    except Exception as caught:  # Orbax raises all kinds, even plain Exception
        error = _classify(folder, caught)
    _raise_together(folder, error, shared)
    changed = list(_changed(restored, targets, records))  # all of them: hosts compute digests together
    error = DamagedCheckpoint(folder, f'{changed[0]} is not what was written') if changed else None
    _raise_together(folder, error, shared)
    return {name: restored[name] for name in targets}, {name: restored[name] for name in records}


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


def _changed(restored: Any, targets: dict[str, Any], records: tuple[str, ...]) -> Iterator[str]:
    """The paths whose digests are not those that were written."""
    stored = restored['digests']
    for name in targets:
        for path, number in digest(restored[name]).items():
            if stored.get(name, {}).get(path) != number:
                yield name + path
    for name in records:
        number = checksum(restored[name])
        if stored.get(name, number) != number:  # older checkpoints have no checksums of records
            yield name


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


def checksum(record: Any) -> int:
    """CRC-32 of a JSON record."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
