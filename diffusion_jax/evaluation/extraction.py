"""Features of a set of images in shards, one for each part, so that an interrupted extraction resumes."""

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from diffusion_jax import shards
from diffusion_jax.data.image_sets.base import ImageSet, Part, PartImages
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.report import Progress
from diffusion_jax.shards import Shard

# The arrays in a shard in addition to features; the names are those of all versions.
IDENTITY, UNREADABLE, POSITIONS, SIZE = 'identity', 'left_out', 'places', 'size'


def extract(
    images: ImageSet,
    extractor: Extractor,
    directory: Path,
    stop: Callable[[], bool],
    *,
    host: int = 0,
    num_hosts: int = 1,
) -> list[Shard]:
    """The shards with the features of all images; existing ones of the same images are not computed again.

    Args:
        directory: the shards are in a subfolder named after the extractor.
        host: computes every num_hosts-th part.

    Raises:
        Interrupted: `stop` returned true; finished shards are kept.
    """
    folder = directory / extractor.name
    all_shards = {part: shards.shard(folder, part.start, part.stop) for part in images.parts}
    missing = {part for part in images.parts if not _is_current(all_shards[part], part)}
    own = [part for index, part in enumerate(images.parts) if index % num_hosts == host and part in missing]
    batch_size = min(extractor.batch_size, max(part.stop - part.start for part in images.parts))
    ahead = _read_ahead(images, own)

    def compute(start: int, stop: int) -> shards.Rows:
        part, chunk = next(ahead)
        arrays = _features(chunk.images, extractor, batch_size) if len(chunk.images) else {}
        return {
            **arrays,
            IDENTITY: np.array(part.identity),
            UNREADABLE: np.array(chunk.unreadable, np.str_),
            POSITIONS: chunk.positions,
            SIZE: np.array(chunk.images.shape[1:3]),
        }

    done = len(images) - sum(part.stop - part.start for part in missing)
    progress = Progress(f'features of {Path(images.name).name}', len(images))
    shards.write([all_shards[part] for part in own], progress, len(images), compute, stop, done=done)
    return list(all_shards.values())


def _features(images: np.ndarray, extractor: Extractor, batch_size: int) -> dict[str, np.ndarray]:
    """Features of one part; the last batch is padded, so that one compiled program serves all."""
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch_size, axis=0)])
    batches = [extractor.apply(padded[i : i + batch_size]) for i in range(0, len(padded), batch_size)]
    return {name: np.concatenate([batch[name] for batch in batches])[: len(images)] for name in batches[0]}


def _read_ahead(images: ImageSet, parts: Sequence[Part]) -> Iterator[tuple[Part, PartImages]]:
    """Reads one part while the previous one is computed."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        futures = [pool.submit(images.read, part) for part in parts[:1]]
        for i, part in enumerate(parts):
            futures += [pool.submit(images.read, following) for following in parts[i + 1 : i + 2]]
            yield part, futures.pop(0).result()


def _is_current(shard: Shard, part: Part) -> bool:
    """Whether a shard exists, is intact and is of these images."""
    try:
        return str(shards.read(shard, IDENTITY)[IDENTITY]) == part.identity
    except UserError:
        return False
