"""What follows a save: the new checkpoint is checked, then older ones are removed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from diffusion_jax.training.checkpoints import DamagedCheckpoint, checksum, reader, what_is_wrong
from diffusion_jax.training.digest import digest

TEMPORARY = '.orbax-checkpoint-tmp'  # how Orbax ends the name of a folder that is no checkpoint yet


class Expected(NamedTuple):
    """What a checkpoint must hold.

    Attributes:
        digests: of every item, as they are stored.
        largest: every item of arrays as a tree in which only the largest array is described.
        records: the names of the JSON items.
    """

    digests: dict[str, Any]
    largest: dict[str, Any]
    records: tuple[str, ...]


def expected(items: Mapping[str, Any], records: Mapping[str, Any], digests: dict[str, Any]) -> Expected:
    """What the checkpoint of these items of arrays and these JSON records must hold."""
    return Expected(digests, {name: _only_largest(tree) for name, tree in items.items()}, tuple(records))


def _only_largest(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    number, leaf = max(enumerate(leaves), key=lambda pair: pair[1].size)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    only = [ocp.PLACEHOLDER] * len(leaves)
    only[number] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
    return jax.tree.unflatten(structure, only)


def check_written(directory: Path, step: int, wanted: Expected) -> None:
    """Reads the JSON records and the largest array of every item, and compares their digests.

    To read all arrays would take as long as writing them.

    Raises:
        DamagedCheckpoint: that part of the checkpoint is not what was written.
        UserError: it cannot be read for another reason, such as too little memory.
    """
    folder = Path(directory).absolute() / str(step)
    args = {name: _restore(tree) for name, tree in wanted.largest.items()}
    args |= {name: ocp.args.JsonRestore() for name in (*wanted.records, 'digests')}
    try:
        with reader(directory) as manager:
            restored = manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:  # Orbax raises all kinds, bare Exception among them
        raise what_is_wrong(folder, error) from error
    found = {name: checksum(restored[name]) for name in wanted.records}
    found |= {name: wanted.digests[name] | _digest(restored[name]) for name in wanted.largest}
    for name, number in found.items():
        if not number == wanted.digests[name] == restored['digests'].get(name):
            raise DamagedCheckpoint(folder, f'{name} is not what was written')


def _restore(tree: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))


def _digest(tree: Any) -> dict[str, int]:
    """Of the one array that was restored."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    ((path, leaf),) = [pair for pair in leaves if isinstance(pair[1], jax.Array)]
    return {jax.tree_util.keystr(path): digest(leaf)['']}


def remove_older(directory: Path, keep: int | None) -> None:
    """Removes all checkpoints but the newest `keep`; None keeps all.

    Each is renamed first, so that a partial folder is never taken for a checkpoint.

    Raises:
        OSError: one of them, or a part of it, cannot be removed.
    """
    for step in sorted(ocp.utils.checkpoint_steps(directory))[:-keep] if keep else ():
        leaving = directory / f'{step}{TEMPORARY}'
        shutil.rmtree(leaving, ignore_errors=True)
        (directory / str(step)).rename(leaving)
        shutil.rmtree(leaving)
