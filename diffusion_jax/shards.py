"""Long work on images (to draw, to look at) in a folder, batch by batch, each written whole.

A shard is an npz with the rows start … stop − 1, called <start>-<stop>.npz. What is there is never done
again: a killed run goes on where it was. Hosts that share the folder each do their part of what is missing.
"""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.errors import UserError, reason
from diffusion_jax.hosts import any_process, largest_of_hosts, raise_together
from diffusion_jax.interruption import Interrupted, interruptible
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
    title: str,
    num_rows: int,
    batch_size: int,
    compute: Callable[[int, int], Rows],
    stop: Callable[[], bool],
    *,
    host: int = 0,
    num_hosts: int = 1,
    progress: Progress | None = None,
) -> None:
    """Writes the missing shards of the rows 0 … num_rows − 1; of several hosts each writes every n-th, and
    returns when all are there.

    All hosts call it, and all of them return when the last is done.

    Args:
        title: of the progress bar.
        compute: (start, stop) → arrays of these rows, at most batch_size of them.
        progress: used instead of one with the title, by a `compute` that reports its steps to it.

    Raises:
        Interrupted: because `stop` of any host said so; what was done is kept and used by the next call.
    """
    # Whose a shard is rests on its place alone: hosts may look at different times.
    missing = gaps(directory, num_rows, batch_size)
    own = [shard for shard in missing if shard.start // batch_size % num_hosts == host]
    write(own, title, num_rows, compute, stop, done=num_rows - sum(map(_length, missing)), progress=progress)


def write(
    missing: Sequence[Shard],
    title: str,
    num_rows: int,
    compute: Callable[[int, int], Rows],
    stop: Callable[[], bool],
    *,
    done: int,
    progress: Progress | None = None,
) -> None:
    """Writes these shards; `done` of the rows are there already. See `fill`.

    Hosts go in rounds, a shard of each at a time, so that all leave together: when all are done, or when one
    of them was asked to stop or cannot go on.
    """
    rounds = largest_of_hosts(len(missing))
    if not rounds:
        return
    with (progress or Progress(title, num_rows)).begin(done) as progress:
        for number in range(rounds):
            if any_process(stop()):
                where = f'{missing[0].path.parent}: ' if missing else ''
                raise Interrupted(f'{where}stopped after {done} of {num_rows} images, which are saved')
            with raise_together():
                for shard in missing[number : number + 1]:
                    _write_one(shard, compute, f'{done} of {num_rows} images are saved')
                    done += _length(shard)
                    progress.update(done)


def _write_one(shard: Shard, compute: Callable[[int, int], Rows], saved: str) -> None:
    arrays = interruptible(functools.partial(compute, shard.start, shard.stop))
    try:
        write_npz(shard.path, **arrays)
    except OSError as error:
        raise UserError(
            f'{shard.path}: cannot be written ({reason(error)}); make room and give the same command to go '
            f'on: {saved}'
        ) from error


def _length(shard: Shard) -> int:
    return shard.stop - shard.start


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
        raise UserError(
            f'{shard.path}: damaged ({reason(error)}); remove it to have its rows done again'
        ) from error
