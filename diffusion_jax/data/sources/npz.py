"""The authors' npz of images, arr_0, and their labels, arr_1; read from disk image by image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.npz import checksum, read_images
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.labels import integer_classes, numbered
from diffusion_jax.data.sources.reading import converted
from diffusion_jax.data.sources.splits import check_undivided
from diffusion_jax.data.transforms import Picture, as_picture
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class NpzSource(Source):
    """images: uint8 [N, H, W, 1 or 3], memory-mapped where the npz is not compressed."""

    images: np.ndarray
    labels: np.ndarray  # int32 [N]
    class_names: tuple[str, ...]
    channels: int  # 3: everything becomes RGB, 1: grey
    identity: str
    files: Sequence[str] = field()  # without the default of Source

    def __len__(self) -> int:
        return len(self.images)

    def picture(self, index: int) -> dict[str, Any]:
        image: Picture = np.asarray(self.images[index])
        if self.images.shape[-1] != self.channels:
            image = converted(as_picture(image), self.channels)
        return {'image': image, 'label': int(self.labels[index])}

    def name_of(self, index: int) -> str:
        return f'{shown(self.files[0])}, image {index}'


def npz_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None) -> NpzSource:
    """All images of an npz, in its order. The classes are named by their numbers."""
    path = check_undivided(config, split, 'an npz')
    images, numbers = read_images(Path(path))
    if config.labels == 'none':
        labels, class_names = np.zeros(len(images), np.int32), ()
    elif numbers is None:
        remedy = "set config.data.labels='none' to use the images without labels"
        raise UserError(shown(path), 'contains no labels (arr_1)', remedy)
    else:
        if class_names is None:
            class_names = integer_classes(np.unique(numbers).tolist(), config.num_classes)
        classes = [str(number) for number in numbers.tolist()]
        labels = numbered(classes, class_names, lambda i: f'{shown(path)}, image {i}')
    return NpzSource(images, labels, class_names, config.image_channels, checksum(Path(path)), (path,))


def is_npz(path: str) -> bool:
    return path.lower().endswith('.npz') and Path(path).is_file()
