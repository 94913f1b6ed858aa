"""Many samples in a folder, batch by batch, each written whole: a killed run goes on where it was."""

from __future__ import annotations

import functools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted, attentive
from diffusion_jax.report import Progress
from diffusion_jax.workdir import atomic_file, write_npz

Draw = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def draw_samples(
    directory: Path,
    draw: Draw,
    num_samples: int,
    batch_size: int,
    progress: Progress,
    stop: Callable[[], bool],
) -> None:
    """Writes `samples.npz` in the authors' format: arr_0 uint8 [N, H, W, C], arr_1 int64 [N] labels.

    The last batch is drawn whole, too, and cut: all images come from one compiled program.

    Args:
        draw: sample indices [batch_size] → (images, labels).

    Raises:
        Interrupted: because `stop` said so; what was drawn is kept and used by the next call.
    """
    shards = directory / 'shards'
    shards.mkdir(parents=True, exist_ok=True)
    done = 0
    parts = []
    while done < num_samples:
        path = shards / f'{done:08d}.npz'
        if not path.exists():
            if stop():
                raise Interrupted(
                    f'{directory}: stopped after {done} of {num_samples} samples, which are saved'
                )
            count = min(batch_size, num_samples - done)
            index = np.arange(done, done + batch_size)
            images, labels = attentive(functools.partial(draw, index))
            write_npz(path, arr_0=images[:count], arr_1=labels[:count].astype(np.int64))
            progress.update(done + count)
        parts.append(path)
        done += len(load_samples(path)[1])
    _join(directory / 'samples.npz', parts, num_samples)
    shutil.rmtree(shards)


def _join(path: Path, shards: list[Path], num_samples: int) -> None:
    """One npz of all shards, which are in memory one at a time: 50,000 images can be more than fits."""
    with atomic_file(path) as file, zipfile.ZipFile(file, 'w') as archive:
        for name in ('arr_0', 'arr_1'):
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                for i, shard in enumerate(shards):
                    with np.load(shard) as arrays:
                        array = arrays[name]
                    if i == 0:
                        header = np.lib.format.header_data_from_array_1_0(array)
                        shape = (num_samples, *array.shape[1:])
                        np.lib.format.write_array_header_1_0(member, header | {'shape': shape})
                    member.write(array.tobytes())


def load_samples(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a file of samples. UserError where it cannot be read."""
    try:
        with np.load(path) as file:
            return file['arr_0'], file['arr_1']
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f'{path}: is no file of samples; remove it to have them drawn again') from error


def load_samples_of(
    path: str | Path, shape: tuple[int, int, int], num_classes: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a file of samples in the authors' format that another model drew.

    Args:
        shape: height, width and channels that the images must have.
        num_classes: how many classes the labels must be of; None where they play no part.

    Raises:
        UserError: no such file, or other images or labels than these.
    """
    try:
        with np.load(path) as file:
            images, labels = file['arr_0'], file.get('arr_1')
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file; name a file of samples (samples.npz)') from error
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f'{path}: no file of samples (an npz with arr_0, uint8 images)') from error
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise UserError(
            f'{path}: holds {images.dtype} {list(images.shape)}; needed are uint8 images of {list(shape)}'
        )
    if num_classes is None:
        return images, np.zeros(len(images), np.int64)
    if labels is None or len(labels) != len(images) or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f'{path}: needs a label from 0 to {num_classes - 1} for each image, as arr_1')
    return images, labels
