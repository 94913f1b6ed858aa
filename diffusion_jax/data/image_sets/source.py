"""The images of a folder or of a split; an unreadable one does not stop the others."""

import collections
import concurrent.futures
import dataclasses
import logging
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_jax.data.config import READING_SETTINGS, DataConfig
from diffusion_jax.data.image_sets.base import (
    TREATMENT,
    ImageSet,
    Part,
    PartImages,
    even_parts,
    file_identity,
)
from diffusion_jax.data.sources import Source, make_source, resolve
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.folder import listed_source, open_listing
from diffusion_jax.data.sources.reading import UnreadableImage, read_header
from diffusion_jax.data.transforms import Transform, cropped_to, make_transform, uncropped
from diffusion_jax.errors import UserError
from diffusion_jax.images import Size

logger = logging.getLogger(__name__)

THREADS = 8


@dataclass(frozen=True)
class SourceImages(ImageSet):
    """Image i is image order[i] of the source."""

    source: Source
    transform: Transform
    order: np.ndarray

    def read(self, part: Part) -> PartImages:
        decoded = self._decode(range(part.start, part.stop))
        images = {i: image for i, image in enumerate(decoded) if not isinstance(image, UnreadableImage)}
        unreadable = [image.description for image in decoded if isinstance(image, UnreadableImage)]
        stacked = np.stack([*images.values()]) if images else np.zeros((0, 1, 1, 3), np.uint8)
        return PartImages(stacked, np.array([*images], int), unreadable)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See ImageSet. Raises UserError for an unreadable image."""
        images = []
        for image in self._decode(indices):
            if isinstance(image, UnreadableImage):
                raise UserError(image.where, image.problem, 'repair or remove it') from image
            images.append(image)
        return np.stack(images)

    def choose(self, chosen: np.ndarray) -> 'SourceImages':
        """See ImageSet. Reads no image."""
        parts = self._parts_of(np.flatnonzero(chosen))
        return dataclasses.replace(self, parts=parts, order=self.order[chosen])

    def _decode(self, indices: Iterable[int]) -> list[np.ndarray | UnreadableImage]:
        """The images, or why they cannot be read."""

        def decode(index: int) -> np.ndarray | UnreadableImage:
            try:
                image = self.source[int(self.order[index])]['image']
            except UnreadableImage as error:
                return error
            return self.transform(image, np.random.default_rng(index))

        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(decode, indices))


def open_split(config: DataConfig, split: str) -> SourceImages:
    """The images of a split, 'train' or 'test', as networks see them without augmentation."""
    config, source = resolve(config), make_source(config, split)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in READING_SETTINGS}
    settings |= {'split': split, 'images': len(source), 'treatment': TREATMENT}

    def identity(start: int, stop: int) -> str:
        files = map(file_identity, source.paths[start:stop] or source.files)
        return f'{zlib.crc32(" ".join([repr(sorted(settings.items())), *files]).encode()):08x}'

    name = f'{shown(config.path or config.tfds_name or config.name)}, {split} split'
    return source_images(name, source, make_transform(config), identity)


def open_folder(path: Path, size: Size | None) -> SourceImages:
    """All images in and below a folder, in a fixed random order.

    By name, those of a class would follow one another, and the Inception score, which is a mean over
    consecutive parts, would see few classes in each.

    Raises:
        UserError: there is no image, or, without a size to crop them to, they are not all of one size.
    """
    listing = open_listing(str(path))
    paths = listing.paths
    random.Random(0).shuffle(paths)
    _check_headers(path, paths, size)

    def identity(start: int, stop: int) -> str:
        files = ' '.join(map(file_identity, paths[start:stop]))
        return f'{zlib.crc32(files.encode()):08x} {size} {TREATMENT}'

    transform = uncropped if size is None else cropped_to(size)
    return source_images(shown(path), listed_source(listing, 3), transform, identity)


def source_images(
    name: str, source: Source, transform: Transform, identity: Callable[[int, int], str]
) -> SourceImages:
    """All images of a source. identity: (start, stop) → the identity of these images."""
    parts = even_parts(len(source), identity)
    return SourceImages(name, None, parts, source, transform, np.arange(len(source)))


def _check_headers(folder: Path, paths: Sequence[str], size: Size | None) -> None:
    """Logs grey and enlarged images. Raises UserError where images differ in size and are not cropped."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        pairs = zip(paths, pool.map(read_header, paths), strict=True)
        headers = [(path, *header) for path, header in pairs if header]
    grey = [path for path, _, mode in headers if mode in ('1', 'L', 'LA')]
    small = [path for path, (width, height), _ in headers if size and (height < size[0] or width < size[1])]
    for found, text in (
        (grey, '%s: is grey, as are %d of %d images; converted to RGB'),
        (small, '%s: is enlarged, as are %d of %d images smaller than the crop'),
    ):
        if found:
            logger.warning(text, shown(found[0]), len(found), len(paths))
    sizes = collections.Counter(shape for _, shape, _ in headers)
    if size is None and len(sizes) > 1:
        (most, count), (other, _) = sizes.most_common(2)
        example = next(path for path, shape, _ in headers if shape == other)
        others = f'{count} of the {len(paths)} images in {shown(folder)} have {most[0]}×{most[1]}'
        remedy = 'give a size to crop to (--size), or keep images of one size only'
        raise UserError(shown(example), f'has {other[0]}×{other[1]} pixels; {others}', remedy)
