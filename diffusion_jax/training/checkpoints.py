"""Checkpoints of one network's training, kept by Orbax: what they hold, and reading them.

A checkpoint is a folder `<step>` of items that can be read alone: `params`, one `ema_<rate>` for every
average, `training` (optimizer, timestep sampler, key), and as JSON `network` (the architecture), `progress`
(the rest that a run needs to go on exactly: position in the data, metrics that are not logged yet) and
`digests` of all of it, by which damage is found that Orbax does not notice.

Training goes on from the newest that is whole (`saving`). All other readers refuse a damaged one by name:
results say which step they rest on, and that is not to change unasked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError
from diffusion_jax.hosts import any_process
from diffusion_jax.models import (
    ClassifierConfig,
    Params,
    UNetConfig,
    network_differences,
    network_of,
)
from diffusion_jax.sharding import abstract_on, make_mesh, param_shardings
from diffusion_jax.training.digest import digest
from diffusion_jax.training.paths import check_path

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# How TensorStore's and JAX's errors begin where files could not be read, or not be held, whatever is in them.
NOT_DAMAGE = ('UNKNOWN', 'PERMISSION_DENIED', 'UNAVAILABLE', 'ABORTED', 'RESOURCE_EXHAUSTED')

WRONG_WITH_A_FILE = {
    'NOT_FOUND': 'a file is missing',
    'OUT_OF_RANGE': 'a file is cut short',
    'DATA_LOSS': 'a file was changed',
}


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or not as it was written. `reason` says why."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(
            f'{folder}: damaged ({reason}); run its training again, which goes on from the checkpoint before '
            'it, or move this folder away'
        )
        self.reason = reason


def latest_step(directory: Path) -> int | None:
    """The newest step in a folder of checkpoints; None where there is no folder or no checkpoint.

    Raises:
        DamagedCheckpoint: parts of the newest are missing.
        UserError: it cannot be read.
    """
    directory = Path(directory)
    try:
        step = max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None
        parts = ('network', 'digests') if step is not None else ()
        missing = [name for name in parts if not (directory / str(step) / name).is_dir()]
    except OSError as error:
        raise UserError(
            f'{error.filename or directory}: cannot be read ({error.strerror}); fix the cause and rerun the '
            'command'
        ) from error
    if missing:
        raise DamagedCheckpoint(directory / str(step), f'{" and ".join(missing)} missing')
    return step


def read_end(
    directory: Path,
    config: UNetConfig | ClassifierConfig,
    num_steps: int,
    ema_rates: Sequence[float],
    mesh: Mesh,
) -> tuple[int, dict[str, Any]] | None:
    """The step and the progress of the newest checkpoint, if that is of `num_steps` or beyond, and its
    parameters and averages are whole; all hosts ask together."""
    try:
        step = latest_step(directory)
    except DamagedCheckpoint:  # training says so when it goes on from the one before
        step = None
    if any_process(step is None or step < num_steps):
        return None
    try:
        for rate in (0.0, *ema_rates):
            _read_params(directory, step, _item(rate), config, mesh)
        return step, read(directory, step, {}, ('progress',))[1]['progress']
    except DamagedCheckpoint:
        return None


def read_network(directory: Path) -> UNetConfig | ClassifierConfig:
    """The architecture of the network whose checkpoints are in a folder. UserError where there are none."""
    step = latest_step(directory)
    if step is None:
        raise UserError(f'{directory}: no checkpoint there; train the network first, or name another folder')
    return network_of(read(directory, step, {}, ('network',))[1]['network'])


def check_checkpoint(directory: Path, config: UNetConfig | ClassifierConfig, ema_rate: float = 0.0) -> int:
    """The newest step in a folder of checkpoints, if it is of a network and has what is asked of it.

    Args:
        config: the network.
        ema_rate: the average of the parameters; 0 is the parameters themselves.

    Raises:
        UserError: no checkpoint there, one of another architecture, or one without that average.
    """
    network = read_network(directory)
    step = latest_step(directory)
    folder = Path(directory).absolute() / str(step)
    wrong = network_differences(network, config)
    if wrong:
        raise UserError(f'{folder}: a checkpoint of another network: {"; ".join(wrong)}')
    kept = sorted(path.name for path in folder.iterdir() if path.name.startswith(('ema_', 'params')))
    if _item(ema_rate) not in kept:
        raise UserError(
            f'{folder}: has no {_item(ema_rate)}; it holds {", ".join(kept)}; name the rate of one of these, '
            'or 0 for params'
        )
    return step


def load_params(
    directory: Path, config: Any, ema_rate: float = 0.0, mesh: Mesh | None = None
) -> tuple[Params, int]:
    """Parameters of the newest checkpoint in a folder, and its step. For arguments see `check_checkpoint`.

    Args:
        mesh: where they go, by `param_shardings`; by default to the first device.

    Raises:
        UserError: see `check_checkpoint`; or the checkpoint is damaged, or a parameter is not finite.
    """
    step = check_checkpoint(directory, config, ema_rate)
    mesh = mesh or make_mesh(devices=all_devices()[:1])
    params = _read_params(directory, step, _item(ema_rate), config, mesh)
    for name, finite in traverse_util.flatten_dict(_finite(params), sep='/').items():
        if not finite:
            raise UserError(
                f'{Path(directory).absolute() / str(step)}: {name} of {_item(ema_rate)} is not finite; train '
                'again from an earlier checkpoint, or in another folder'
            )
    return params, step


@jax.jit
def _finite(params: Params) -> Any:
    """Whether each array is finite; the same on all hosts."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params)


def _read_params(directory: Path, step: int, item: str, config: Any, mesh: Mesh) -> Params:
    shapes = models.param_shapes(config)
    target = abstract_on(param_shardings(mesh, shapes), shapes)
    return read(directory, step, {item: target}, ())[0][item]


def _item(ema_rate: float) -> str:
    return f'ema_{ema_rate}' if ema_rate else 'params'


def reader(directory: Path) -> ocp.CheckpointManager:
    """Reads without a word to other hosts: one that raises leaves none waiting inside Orbax."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
    return ocp.CheckpointManager(Path(directory).absolute(), options=options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warnings that a read-only manager writes nothing."""
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def read(
    directory: Path,
    step: int,
    targets: dict[str, Any],
    records: tuple[str, ...],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items of arrays and JSON records by name, checked against their digests.

    Arrays whose shardings are of several hosts these read together: where one of them raises all do.

    Raises:
        DamagedCheckpoint: what was written is not there, or something else is.
        UserError: it cannot be read for another reason, such as too little memory or an input/output error.
    """
    all_devices()  # where there are none, that is no damage
    check_path(directory)
    shared = any(not leaf.sharding.is_fully_addressable for leaf in jax.tree.leaves(targets))
    agree = any_process if shared else bool
    arrays = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
    texts = {name: ocp.args.JsonRestore() for name in (*records, 'digests')}
    folder, wrong = Path(directory).absolute() / str(step), None
    try:
        with _quiet(), reader(directory) as manager:
            restored = manager.restore(step, args=ocp.args.Composite(**arrays, **texts))
    except Exception as error:  # Orbax raises all kinds, bare Exception among them
        wrong = what_is_wrong(folder, error)
    _raise_together(folder, wrong, agree)
    changed = list(_changed(restored, targets, records))  # all: hosts compute digests together
    wrong = DamagedCheckpoint(folder, f'{changed[0]} is not what was written') if changed else None
    _raise_together(folder, wrong, agree)
    return {name: restored[name] for name in targets}, {name: restored[name] for name in records}


def _changed(restored: Any, targets: Iterable[str], records: Iterable[str]) -> Iterator[str]:
    """The paths whose digests are not those that were written."""
    digests = restored['digests']
    for name in targets:
        for path, number in digest(restored[name]).items():
            if digests.get(name, {}).get(path) != number:
                yield name + path
    for name in records:
        number = checksum(restored[name])
        if digests.get(name, number) != number:  # older checkpoints have none
            yield name


def what_is_wrong(folder: Path, error: Exception) -> UserError:
    """Damage, unless the error says that whole files might not have been read either."""
    errors = (error, error.__cause__)  # TensorStore's own, which begin with a status, may be the cause
    if (
        isinstance(error, MemoryError)
        or any(str(each).startswith(NOT_DAMAGE) for each in errors)
        or (isinstance(error, OSError) and error.errno not in (None, *NOT_THERE))
    ):
        return UserError(
            f'{folder}: cannot be read ({reason_of(error.__cause__ or error)}), which is no damage of it; '
            'nothing was moved; fix the cause and rerun the command'
        )
    return DamagedCheckpoint(folder, f'cannot be read: {reason_of(error)}')


def _raise_together(folder: Path, wrong: UserError | None, agree: Callable[[bool], bool]) -> None:
    damaged = isinstance(wrong, DamagedCheckpoint)
    if agree(wrong is not None and not damaged):
        raise wrong if wrong and not damaged else UserError(f'{folder}: another host cannot read it')
    if agree(damaged):
        raise wrong or DamagedCheckpoint(folder, 'another host finds its part damaged')


def checksum(record: Any) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def reason_of(error: Exception) -> str:
    """One short line: of TensorStore's long ones, which may be the cause, what is wrong with which file; or,
    where the system said something, that with their beginning."""
    text = str(error.__cause__ or error) or type(error).__name__
    if 'No space left' in text:
        return 'no space left on the device'
    status, files = text.partition(':')[0], re.findall(r'local file "([^"]+)"', text)
    if status in WRONG_WITH_A_FILE and files:
        return f'{WRONG_WITH_A_FILE[status]}: {"/".join(Path(files[-1]).parts[-3:])}'
    line = text.splitlines()[0].partition(' [')[0]
    return line if len(line) < 200 else f'{line[:80]} … {line[-120:]}'
