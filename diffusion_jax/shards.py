"""Long work on images in a folder, batch by batch, each batch written completely or not at all.

A shard is an npz with the rows start … stop − 1, called <start>-<stop>.npz. Existing shards are not computed
again, so a killed run resumes. Hosts that share the folder each compute their part of the missing ones.
"""

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

SHARDS = 'shards'  # the folder, where it is one of several

Rows = Mapping[str, np.ndarray]


class Shard(NamedTuple):
    path: Path
    start: int
    stop: int


def fill(
    directory: Path,
    progress: Progress,
    num_rows: int,
    batch_size: int,
    compute: Callable[[int, int], Rows],
    stop: Callable[[], bool],
    *,
    host: int = 0,
    num_hosts: int = 1,
) -> None:
    """Writes the missing shards of the rows 0 … num_rows − 1.

    All hosts call it; each writes every num_hosts-th shard, and all return when the last one is done. Raises
    Interrupted if `stop` of any host returns True; the next call continues.

    compute: (start, stop) → arrays of these rows, at most batch_size of them.
    """
    missing = gaps(directory, num_rows, batch_size)
    # The owner of a shard depends on its position alone, since hosts list the folder at different times.
    own = [shard for shard in missing if shard.start // batch_size % num_hosts == host]
    done = num_rows - sum(shard.stop - shard.start for shard in missing)
    write(own, progress, num_rows, compute, stop, done=done)


def write(
    missing: Sequence[Shard],
    progress: Progress,
    num_rows: int,
    compute: Callable[[int, int], Rows],
    stop: Callable[[], bool],
    *,
    done: int,
) -> None:
    """Writes these shards, where `done` of the rows exist already. See `fill`.

    Hosts proceed in rounds of one shard each, so that all leave together: when all are done, or when one of
    them is asked to stop or fails.
    """
    rounds = largest_of_hosts(len(missing))
    if not rounds:
        return
    with progress.begin(done):
        for number in range(rounds):
            saved = f'{done} of {num_rows} images'
            if any_process(stop()):
                where = f'{missing[0].path.parent}: ' if missing else ''
                raise Interrupted(f'{where}stopped after {saved}, which are saved')
            with raise_together():
                for shard in missing[number : number + 1]:
                    arrays = interruptible(functools.partial(compute, shard.start, shard.stop))
                    try:
                        write_npz(shard.path, **arrays)
                    except OSError as error:
                        remedy = f'free space and give the same command again: {saved} are saved'
                        problem = f'cannot be written ({reason(error)})'
                        raise UserError(str(shard.path), problem, remedy) from error
                    done += shard.stop - shard.start
                    progress.update(done)


def gaps(directory: Path, num_rows: int, batch_size: int) -> list[Shard]:
    """The missing shards, of at most batch_size rows each."""
    missing, position = [], 0
    existing = [(shard.start, shard.stop) for shard in list_shards(directory)]
    for start, stop in [*existing, (num_rows, num_rows)]:
        for first in range(position, min(start, num_rows), batch_size):
            missing.append(shard(directory, first, min(first + batch_size, start, num_rows)))
        position = stop
    return missing


def shard(directory: Path, start: int, stop: int) -> Shard:
    return Shard(directory / f'{start:08d}-{stop:08d}.npz', start, stop)


def list_shards(directory: Path) -> list[Shard]:
    """The existing shards, in the order of their rows."""
    names = (re.fullmatch(r'(\d{8,})-(\d{8,})\.npz', path.name) for path in directory.glob('*.npz'))
    existing = [shard(directory, int(name[1]), int(name[2])) for name in names if name]
    return sorted(existing, key=lambda shard: shard.start)


def read(shard: Shard, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a shard: the named ones, or all. Raises UserError where they cannot be read."""
    try:
        with np.load(shard.path) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        problem = f'is damaged ({reason(error)})'
        raise UserError(str(shard.path), problem, 'remove it; its rows are computed again') from error
