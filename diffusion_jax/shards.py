"""Long work on images (to draw, to look at) in a folder, batch by batch, each written whole.

A shard is an npz with the rows start … stop − 1, called <start>-<stop>.npz. What is there is never done
again: a killed run goes on where it was. Hosts that share the folder each do their part of what is missing.
"""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.hosts import on_any_host
from diffusion_jax.interruption import Interrupted, attentive
from diffusion_jax.report import Progress
from diffusion_jax.workdir import write_npz

SHARDS = 'shards'  # the folder, where other things stand beside it

Rows = Mapping[str, np.ndarray]


class Shard(NamedTuple):
    path: Path
    start: int
    stop: int


def fill(
    directory: Path,
    num_rows: int,
    batch_size: int,
    compute: Callable[[int, int], Rows],
    progress: Progress,
    stop: Callable[[], bool],
    *,
    host: int = 0,
    num_hosts: int = 1,
) -> None:
    """Writes the missing shards of the rows 0 … num_rows − 1; of several hosts each writes every n-th.

    All hosts call it, and all of them return when the last is done.

    Args:
        compute: (start, stop) → arrays of these rows, at most batch_size of them.

    Raises:
        Interrupted: because `stop` of any host said so; what was done is kept and used by the next call.
    """
    # Whose a shard is rests on its place alone: hosts may look at different times.
    missing = gaps(directory, num_rows, batch_size)
    done = num_rows - sum(shard.stop - shard.start for shard in missing)
    own = [shard for shard in missing if shard.start // batch_size % num_hosts == host]
    interruption = None
    try:
        write(own, compute, progress, stop, done=done)
    except Interrupted as error:
        interruption = error
    if on_any_host(interruption is not None):
        raise interruption or Interrupted(f'{directory}: stopped, because another host was asked to stop')


def write(
    missing: Sequence[Shard],
    compute: Callable[[int, int], Rows],
    progress: Progress,
    stop: Callable[[], bool],
    *,
    done: int,
) -> None:
    """Writes these shards; `done` rows are there already. See `fill`."""
    for shard in missing:
        if stop():
            raise Interrupted(
                f'{shard.path.parent}: stopped after {done} of {progress.total} images, which are saved'
            )
        write_npz(shard.path, **attentive(functools.partial(compute, shard.start, shard.stop)))
        done += shard.stop - shard.start
        progress.update(done)


def gaps(directory: Path, num_rows: int, batch_size: int) -> list[Shard]:
    """The shards that are still to be written, of at most batch_size rows each."""
    missing, position = [], 0
    for start, stop in [*((there.start, there.stop) for there in found(directory)), (num_rows, num_rows)]:
        for first in range(position, min(start, num_rows), batch_size):
            missing.append(shard(directory, first, min(first + batch_size, start, num_rows)))
        position = max(position, stop)
    return missing


def shard(directory: Path, start: int, stop: int) -> Shard:
    return Shard(directory / f'{start:08d}-{stop:08d}.npz', start, stop)


def found(directory: Path) -> list[Shard]:
    """The shards that are there, in the order of their rows."""
    names = (re.fullmatch(r'(\d{8,})-(\d{8,})\.npz', path.name) for path in directory.glob('*.npz'))
    there = [shard(directory, int(name[1]), int(name[2])) for name in names if name]
    return sorted(there, key=lambda shard: shard.start)


def read(shard: Shard, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a shard: the named ones, or all. UserError where they cannot be read."""
    try:
        with np.load(shard.path) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f'{shard.path}: damaged ({error}); remove it to have its rows done again') from error


def rows(directory: Path, *names: str) -> Iterator[dict[str, np.ndarray]]:
    """Arrays of shard after shard: one shard is in memory at a time."""
    return (read(shard, *names) for shard in found(directory))
