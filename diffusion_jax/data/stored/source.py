"""The images of a source, one after the other; one that is damaged does not stop the others."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import Source, make_source
from diffusion_jax.data.stored.image_set import Part, Rows, even_parts
from diffusion_jax.data.transforms import Transform, make_transform
from diffusion_jax.errors import UserError

THREADS = 8


@dataclass(frozen=True)
class SourceImages:
    name: str
    source: Source
    transform: Transform | None
    labels: np.ndarray | None
    parts: Sequence[Part]

    def read(self, part: Part) -> Rows:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(self._read_one, range(part.start, part.stop)))
        images = [image for image in found if not isinstance(image, str)]
        left_out = [reason for reason in found if isinstance(reason, str)]
        return Rows(np.stack(images) if images else np.zeros((0, 1, 1, 3), np.uint8), left_out)

    def _read_one(self, index: int) -> np.ndarray | str:
        """The image, or why there is none."""
        try:
            image = self.source[index]['image']
        except UserError as error:
            return str(error)
        return image if self.transform is None else self.transform(image, np.random.default_rng(index))


def open_split(config: DataConfig, split: str) -> SourceImages:
    """The images of a split, 'train' or 'test', as networks see them without augmentation."""
    source = make_source(config, split)
    settings = dataclasses.asdict(config) | {'num_workers': 0, 'split': split, 'images': len(source)}
    identity = f'{zlib.crc32(repr(sorted(settings.items())).encode()):08x}'
    parts = even_parts(len(source), lambda start, stop: identity)
    return SourceImages(f'{config.name}, {split} split', source, make_transform(config), None, parts)
