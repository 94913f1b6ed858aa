"""The two pipelines that data_speed.py compares. Imports here are those that both Pythons have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH = 16
Batches = Iterator[Any]


# Ours.


def our_batches(folder: Path, kind: str, size: int, workers: int) -> Batches:
    """Batches without end; kind: 'jpeg', 'prepared' or 'processes'."""
    from diffusion_jax.data.config import DataConfig
    from diffusion_jax.data.pipeline import batches
    from diffusion_jax.data.sources import make_source
    from diffusion_jax.data.transforms import make_transform

    name, path = ('prepared', f'prepared{size}') if kind == 'prepared' else ('folder', 'jpeg')
    config = DataConfig(name, path=str(folder / path), image_size=(size, size), image_channels=3)
    source, transform = make_source(config, 'train'), make_transform(config)
    if kind == 'processes':
        return iter(in_processes(source, transform, workers))
    return batches(source, BATCH, seed=0, transform=transform, num_workers=workers)


def in_processes(source: Any, transform: Any, workers: int) -> Any:
    import grain
    from absl import flags

    from diffusion_jax.data.pipeline import load_batch

    flags.FLAGS.mark_as_parsed()  # which Grain's processes ask for
    order = grain.MapDataset.range(len(source)).seed(0).shuffle().repeat().batch(BATCH)
    loaded = order.map(lambda indices: load_batch(source, indices, transform=transform))
    without_threads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=workers)
    return loaded.to_iter_dataset(without_threads).mp_prefetch(options)


# PyTorch.


def torch_batches(folder: Path, kind: str, size: int, workers: int) -> Batches:
    """The same of JPEG files from a DataLoader; as in the release, float32 in [−1, 1] with channels first."""
    from torch.utils.data import DataLoader, Dataset, RandomSampler

    class Photographs(Dataset):
        def __init__(self) -> None:
            self.paths = sorted((folder / 'jpeg').rglob('*.jpg'))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            with Image.open(self.paths[index]) as file:
                pixels = authors_crop(file.convert('RGB'), size)
            scaled = pixels.astype(np.float32) / 127.5 - 1
            return scaled.transpose(2, 0, 1), {'y': np.array(0, np.int64)}

    photographs = Photographs()
    endless = RandomSampler(photographs, replacement=True, num_samples=10**9)
    return iter(DataLoader(photographs, BATCH, sampler=endless, num_workers=workers, drop_last=True))


def authors_crop(picture: Image.Image, size: int) -> np.ndarray:
    """The centre: halved by box filter while the shorter side is at least 2·size, then resized by bicubic."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    resized = (round(picture.width * scale), round(picture.height * scale))
    pixels = np.array(picture.resize(resized, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


SIDES = {'ours': (our_batches, ('grain', 'array-record')), 'torch': (torch_batches, ('torch',))}
