"""In which order images are fed, and to which host.

The order is that of global batches of indices: reshuffled each epoch, repeated without end, cut into batches.
Only then does each host take its rows and load them. So the n-th global batch holds the same images on any
number of hosts, and a saved position is one number that is valid on any of them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.wrappers import is_readable
from diffusion_jax.data.transforms import Transform, uncropped

Batch = dict[str, np.ndarray]


def batches(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    transform: Transform = uncropped,
    num_workers: int = 0,
    host: int = 0,
    num_hosts: int = 1,
    place: Callable[[Batch], Any] = lambda batch: batch,
) -> grain.DatasetIterator[Any]:
    """Endless shuffled batches {'image': uint8 [B, H, W, C], 'label': int32 [B]}, B = batch_size / num_hosts.

    The iterator's `get_state()` is a small dict for JSON that counts batches. `set_state` resumes exactly,
    random transforms included, on any num_hosts with any num_workers, given the same seed and batch_size.

    Args:
        batch_size: of all hosts together, a multiple of num_hosts; may exceed the number of images.
        transform: brings every image to one size.
        num_workers: threads that load ahead (Pillow releases the interpreter's lock); 0 loads on demand.
        place: applied to every batch by these threads: it puts the batch on the devices.
    """
    rows = np.arange(batch_size).reshape(num_hosts, -1)[host]

    def load(step: int, indices: np.ndarray) -> Batch:
        positions = step * batch_size + rows
        return place(load_batch(source, indices[rows], positions, transform=transform, seed=seed))

    dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    dataset = dataset.batch(batch_size, drop_remainder=True).map_with_index(load)
    return iter(dataset.to_iter_dataset(_read_options(num_workers)))


def epoch(
    source: Source, batch_size: int, *, transform: Transform = uncropped, num_workers: int = 0
) -> Iterator[Batch]:
    """All images once, in order, without skipped ones; batches may be shorter."""

    def load(indices: np.ndarray) -> Batch:
        batch = load_batch(source, indices, transform=transform)
        used = is_readable(source, indices)
        return {name: rows[used] for name, rows in batch.items()}

    dataset = grain.MapDataset.range(len(source)).batch(batch_size).map(load)
    loaded = iter(dataset.to_iter_dataset(_read_options(num_workers)))
    return (batch for batch in loaded if len(batch['label']))


def load_batch(
    source: Source,
    indices: np.ndarray,
    positions: np.ndarray | None = None,
    *,
    transform: Transform = uncropped,
    seed: int = 0,
) -> Batch:
    """These images, in this order.

    positions: each image's place in the endless order, by default its index. With the seed, it fixes the
        transform's draws.
    """
    images, labels = [], []
    for index, position in zip(indices, indices if positions is None else positions, strict=True):
        record = source.picture(int(index))
        rng = np.random.default_rng([seed, int(position)])
        images.append(transform(record['image'], rng))
        labels.append(record['label'])
    return {'image': np.stack(images), 'label': np.array(labels, np.int32)}


def _read_options(num_workers: int) -> grain.ReadOptions:
    # An element is a complete batch: one more than the number of threads keeps all of them busy.
    return grain.ReadOptions(num_threads=num_workers, prefetch_buffer_size=num_workers and num_workers + 1)
