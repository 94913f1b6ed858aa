"""The images of a source, one after the other; one that is damaged does not stop the others."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion_jax.data.config import HOW_IMAGES_ARE_READ, DataConfig
from diffusion_jax.data.sources import Source, make_source
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.stored.image_set import TREATMENT, Part, Rows, even_parts, file_identity
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

    @property
    def skipped(self) -> str:
        """What of a folder was skipped; see Listing.summary."""
        return getattr(self.source, 'skipped', '')

    def read(self, part: Part) -> Rows:
        found = self._read_many(range(part.start, part.stop))
        used = [place for place, image in enumerate(found) if not isinstance(image, UserError)]
        left_out = [str(error) for error in found if isinstance(error, UserError)]
        if len({found[place].shape for place in used}) > 1:
            where = f'images {part.start} to {part.stop - 1} of its order'
            raise UserError(f'{self.name}: {where} have several sizes; give a size to crop to (--size)')
        images = np.stack([found[place] for place in used]) if used else np.zeros((0, 1, 1, 3), np.uint8)
        return Rows(images, np.array(used, int), left_out)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See ImageSet. Raises UserError for an image that is damaged."""
        found = self._read_many(indices)
        for image in found:
            if isinstance(image, UserError):
                raise UserError(f'{image}; repair or remove it') from image
        return np.stack(found)

    def _read_many(self, indices: Iterable[int]) -> list[np.ndarray | UserError]:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._read_one, indices))

    def _read_one(self, index: int) -> np.ndarray | UserError:
        """The image, or why there is none."""
        try:
            image = self.source[int(index)]['image']
        except UserError as error:
            return error
        return image if self.transform is None else self.transform(image, np.random.default_rng(index))


def open_split(config: DataConfig, split: str) -> SourceImages:
    """The images of a split, 'train' or 'test', as networks see them without augmentation."""
    source = make_source(config, split)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in HOW_IMAGES_ARE_READ}
    settings |= {'split': split, 'images': len(source), 'treatment': TREATMENT}
    paths = getattr(source, 'paths', None)

    def identity(start: int, stop: int) -> str:
        files = [] if paths is None else map(file_identity, paths[start:stop])
        return f'{zlib.crc32(" ".join([repr(sorted(settings.items())), *files]).encode()):08x}'

    name = f'{shown(config.path or config.tfds_name or config.name)}, {split} split'
    return SourceImages(name, source, make_transform(config), None, even_parts(len(source), identity))
