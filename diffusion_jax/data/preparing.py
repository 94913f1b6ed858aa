"""Reads any source once and stores its pixels in shards, from which training reads without decoding."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.prepared import (
    MANIFEST_FILE,
    Manifest,
    PreparedShard,
    Skipped,
    is_prepared,
    open_prepared,
    read_manifest,
    write_manifest,
)
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.data.transforms import as_array, center_crop
from diffusion_jax.errors import UserError, reason
from diffusion_jax.images import Size
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress
from diffusion_jax.workdir import lock

IMAGES_PER_SHARD = 1_000  # a killed command repeats the work of at most one shard
WRITER = 'group_size:1,uncompressed'  # one record can be read without its neighbours


def plan(source: Source, path: str, split: str, size: Size | None, channels: int) -> Manifest:
    """The manifest of a source before anything is written; size None keeps that of every image."""
    origin = {'path': shown(path), 'split': split, 'images': len(source), 'identity': source.identity}
    return Manifest(origin, source.class_names, size, channels, IMAGES_PER_SHARD)


@dataclass(frozen=True)
class Job:
    """Attributes:
    folder: where the shards go.
    max_skipped: the largest number of unreadable images to leave out.
    threads: that decode; Pillow releases the interpreter's lock.
    """

    source: Source
    folder: Path
    max_skipped: int
    threads: int
    stop: Callable[[], bool]


def prepare(job: Job, planned: Manifest) -> Manifest:
    """Writes the missing shards, then completes the manifest, which it returns.

    planned: the manifest without shards.

    Raises:
        UserError: the folder holds something else, images cannot be read, or the disk is full.
        Interrupted: `job.stop` returned True; the next call continues.
    """
    if not is_prepared(job.folder):
        check_no_others(job.folder, lambda path: False)
    with lock(job.folder), _writing(job.folder):
        manifest = _existing(job.folder, planned) if is_prepared(job.folder) else planned
        if manifest.complete:
            return manifest
        write_manifest(job.folder, manifest)
        existing = {shard.number for shard in manifest.shards}
        total = planned.source['images']
        with Progress(f'preparing {shown(job.folder)}', total).begin(_done(manifest)) as progress:
            for number in sorted({*range(manifest.num_shards)} - existing):
                manifest = _with_shard(job, manifest, number, progress)
                write_manifest(job.folder, manifest)
        manifest = _completed(job.folder, manifest)
        write_manifest(job.folder, manifest)
    return manifest


def check_no_others(folder: Path, allowed: Callable[[Path], bool]) -> None:
    """Raises UserError if a folder contains a visible entry that is not allowed, or is a file."""
    if folder.is_file():
        raise UserError(shown(folder), 'is a file', 'name a folder that does not exist or is empty')
    others = sorted(path for path in folder.glob('[!.]*') if not allowed(path))
    if others:
        problem = f'contains other files, such as {shown(others[0].name)}'
        raise UserError(shown(folder), problem, 'name a folder that does not exist or is empty')


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _not_written(error.filename or folder, reason(error)) from error


def _not_written(path: str | Path, problem: str) -> UserError:
    remedy = 'make room and give the same command again: all complete shards are kept'
    return UserError(shown(path), f'cannot be written ({problem})', remedy)


def _existing(folder: Path, planned: Manifest) -> Manifest:
    """The stored manifest, without the shards whose files are missing or cut short.

    Raises UserError where the folder was prepared from other images or in another way.
    """
    stored = read_manifest(folder)
    for name in ('image_size', 'channels', 'class_names', 'source'):
        before, now = getattr(stored, name), getattr(planned, name)
        how = f'differently: {name} is {before}, not {now}'
        if name == 'source':  # images may be moved
            before, now = ({**each, 'path': ''} for each in (before, now))
            how = f'from other images, those of {stored.source["path"]}'
        if before != now:
            problem = f'was prepared {how}'
            raise UserError(shown(folder / MANIFEST_FILE), problem, 'choose another folder with --out')
    intact = [shard for shard in stored.shards if shard.size_in(folder) == shard.bytes]
    if len(intact) == stored.num_shards:
        return stored
    kept = {shard.number for shard in intact}
    skipped = [each for each in stored.skipped if each.shard in kept]
    return dataclasses.replace(stored, complete=False, class_counts=(), shards=intact, skipped=skipped)


def _done(manifest: Manifest) -> int:
    return manifest.num_images + len(manifest.skipped)


def _with_shard(job: Job, manifest: Manifest, number: int, progress: Progress) -> Manifest:
    """The manifest after the shard was written."""
    start = number * manifest.images_per_shard
    indices = range(start, min(start + manifest.images_per_shard, len(job.source)))
    shard = PreparedShard(number, 0, 0, '')
    path = job.folder / shard.file
    skipped, table, done = list(manifest.skipped), [], _done(manifest)
    with _record_file(path) as write:
        for position, image in enumerate(_cropped(job, indices, manifest.image_size), 1):
            if job.stop():
                raise Interrupted(f'{shown(job.folder)}: stopped after {done} images, which are saved')
            if isinstance(image, UnreadableImage):
                skipped.append(Skipped(image.where, image.problem, number))
                if len(skipped) > job.max_skipped:
                    counts = f'unreadable images: {len(skipped)}, allowed: {job.max_skipped}'
                    remedy = 'repair or remove it, or give --on-error=skip and a larger --max-skipped'
                    raise UserError(image.where, f'{image.problem}; {counts}', remedy) from image
            else:
                write(image['image'].tobytes())
                table.append((image['label'], *image['image'].shape[:2]))
            progress.update(done + position)
        write(np.array(table, np.int32).tobytes())
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    shard = PreparedShard(number, len(table), path.stat().st_size, digest)
    shards = sorted([*manifest.shards, shard], key=lambda shard: shard.number)
    return dataclasses.replace(manifest, shards=shards, skipped=skipped)


def _cropped(job: Job, indices: range, size: Size | None) -> Iterator[dict[str, Any] | UnreadableImage]:
    """The records of a source in order, cropped as `center_crop` does; decoded ahead by threads."""

    def read(index: int) -> dict[str, Any] | UnreadableImage:
        try:
            record = job.source.picture(index)
        except UnreadableImage as error:
            return error
        image = record['image']
        return record | {'image': as_array(image) if size is None else center_crop(image, size)}

    options = grain.ReadOptions(num_threads=job.threads, prefetch_buffer_size=4 * job.threads)
    return iter(grain.MapDataset.source(indices).map(read).to_iter_dataset(options))


@contextlib.contextmanager
def _record_file(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that appends a record to an ArrayRecord file, which gets its name when it is complete.

    After a kill its temporary file stays, until the same shard is written again.
    """
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        writer = ArrayRecordWriter(os.fspath(temporary), WRITER)
        yield writer.write
        writer.close()
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RuntimeError as error:
        # ArrayRecord's are such as 'write() failed: No space left on device; writing out/train/…'.
        _, failed, problem = str(error).partition('() failed: ')
        if not failed:
            raise
        raise _not_written(path, problem.partition(';')[0]) from error
    finally:
        temporary.unlink(missing_ok=True)


def _completed(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the number of images of each class. Raises UserError where there is no image."""
    if not manifest.num_images:
        problem = f'none of its {manifest.source["images"]} images can be read'
        raise UserError(manifest.source['path'], problem)
    manifest = dataclasses.replace(manifest, complete=True)
    labels = open_prepared(folder, manifest).labels
    counts = np.bincount(labels, minlength=len(manifest.class_names)) if manifest.class_names else ()
    return dataclasses.replace(manifest, class_counts=tuple(map(int, counts)))
