"""Features of a set of images, in shards: part by part, each written whole, so that a killed run goes on."""

from __future__ import annotations

import concurrent.futures
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from diffusion_jax import shards
from diffusion_jax.data.image_sets.base import ImageSet, Part, PartImages
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.shards import Shard

IDENTITY, LEFT_OUT, PLACES, SIZE = 'identity', 'left_out', 'places', 'size'  # beside the features


def extract(
    images: ImageSet,
    extractor: Extractor,
    directory: Path,
    stop: Callable[[], bool],
    *,
    host: int = 0,
    num_hosts: int = 1,
) -> list[Shard]:
    """The shards with the features of all images; what is there of the same images is not computed again.

    Args:
        directory: the shards stand in a folder of it that is called after the extractor.
        host: which part of the work is this host's; see `shards.fill`.

    Raises:
        Interrupted: because `stop` said so; what was computed is kept.
        UserError: features are not finite.
    """
    folder = directory / extractor.name
    place = {part: shards.shard(folder, part.start, part.stop) for part in images.parts}
    missing = {part for part in images.parts if not _is_of(place[part], part)}
    own = [part for index, part in enumerate(images.parts) if index % num_hosts == host and part in missing]
    batch_size = min(extractor.batch_size, max(map(_length, images.parts)))
    ahead = _read_ahead(images, own)

    def compute(start: int, stop: int) -> shards.Rows:
        part, rows = next(ahead)
        arrays = _features(images, part, rows, extractor, batch_size) if len(rows.images) else {}
        return {
            **arrays,
            IDENTITY: np.array(part.identity),
            LEFT_OUT: np.array(rows.unreadable, np.str_),
            PLACES: rows.positions,
            SIZE: np.array(rows.images.shape[1:3]),
        }

    num_images = sum(map(_length, images.parts))
    todo = [place[part] for part in own]
    done = num_images - sum(map(_length, missing))
    shards.write(todo, f'features of {Path(images.name).name}', num_images, compute, stop, done=done)
    return list(place.values())


def _length(part: Part) -> int:
    return part.stop - part.start


def _features(
    images: ImageSet, part: Part, rows: PartImages, extractor: Extractor, batch_size: int
) -> dict[str, np.ndarray]:
    """Features of one part. The last batch is filled up: all are computed by one compiled program."""
    count = len(rows.images)
    padded = np.concatenate([rows.images, np.repeat(rows.images[-1:], -count % batch_size, axis=0)])
    batches = [extractor.apply(padded[i : i + batch_size]) for i in range(0, len(padded), batch_size)]
    arrays = {name: np.concatenate([batch[name] for batch in batches])[:count] for name in batches[0]}
    for array in arrays.values():
        if not np.isfinite(array).all():
            where = f'images {part.start} to {part.stop - 1}'
            raise UserError(
                f'{images.name}: features of {where} are not finite; convert the weights of Inception again'
            )
    return arrays


def _read_ahead(images: ImageSet, parts: Sequence[Part]) -> Iterator[tuple[Part, PartImages]]:
    """Reads one part while the part before it is computed."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        futures = []
        for part in parts:
            futures.append((part, pool.submit(images.read, part)))
            if len(futures) > 1:
                done, rows = futures.pop(0)
                yield done, rows.result()
        for done, rows in futures:
            yield done, rows.result()


def _is_of(shard: Shard, part: Part) -> bool:
    """Whether a shard is there, whole, and of these images."""
    try:
        with np.load(shard.path) as file:
            return str(file[IDENTITY]) == part.identity
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
