"""Many samples in a folder, in shards that are written completely or not at all, and one file of all."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion_jax.report import Progress
from diffusion_jax.shards import SHARDS, fill, list_shards, read
from diffusion_jax.workdir import atomic_file

Draw = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def draw_samples(
    directory: Path,
    progress: Progress,
    draw: Draw,
    num_samples: int,
    batch_size: int,
    stop: Callable[[], bool],
    *,
    host: int = 0,
    num_hosts: int = 1,
) -> None:
    """Fills shards/ with arr_0, uint8 images [N, H, W, C], and arr_1, their labels, int64 [N].

    The last batch is sampled completely and cut: all images come from one compiled program.

    Args:
        draw: sample indices [batch_size] → (images, labels).
        progress, stop, host, num_hosts: see `shards.fill`.

    Raises:
        Interrupted: see `shards.fill`.
    """

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        images, labels = draw(np.arange(start, start + batch_size))
        return {'arr_0': images[: stop - start], 'arr_1': labels[: stop - start].astype(np.int64)}

    folder = directory / SHARDS
    fill(folder, progress, num_samples, batch_size, compute, stop, host=host, num_hosts=num_hosts)


def join(directory: Path, path: Path) -> None:
    """Writes one npz in the authors' format from all shards; one shard is in memory at a time."""
    shards = list_shards(directory / SHARDS)
    for stale in path.parent.glob(f'.{path.name}.*.tmp'):
        stale.unlink()  # left by a run that was killed here; it can be many gigabytes
    with atomic_file(path) as file, zipfile.ZipFile(file, 'w') as archive:
        for name in ('arr_0', 'arr_1'):
            first = read(shards[0], name)[name]
            header = np.lib.format.header_data_from_array_1_0(first)
            shape = (shards[-1].stop, *first.shape[1:])
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header | {'shape': shape})
                for shard in shards:
                    member.write(read(shard, name)[name].tobytes())
