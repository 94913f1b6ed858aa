"""What every source of images offers; images in memory, and encoded ones."""

import functools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_jax.data.sources.files import relative, shown
from diffusion_jax.data.sources.reading import UnreadableImage, read_picture
from diffusion_jax.data.transforms import as_array
from diffusion_jax.errors import UserError, reason
from diffusion_jax.images import Size


class Source:
    """Images by index, each of its own size. A kind of source defines `picture`.

    Attributes:
        class_names: of the labels 0, 1, …; () where images have no labels.
        labels: int [N].
        identity: differs for other images: it stands for the names of files, or a data set's version.
        paths: the file of every image; () where images are not files of their own.
        files: the files that hold the images which are not files of their own; () where they are, or unknown.
        skipped: which files of a folder were skipped; see Listing.summary.
        cropped: height and width to which all images were cropped before; None where they were not.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    identity: str
    paths: Sequence[str] = ()
    files: Sequence[str] = ()
    skipped: str = ''
    cropped: Size | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{'image': uint8 [H, W, C], 'label': int}; the label is 0 where images have none.

        Raises UnreadableImage where the image cannot be used.
        """
        record = self.picture(index)
        return record | {'image': as_array(record['image'])}

    def picture(self, index: int) -> dict[str, Any]:
        """The same, but the image may be Pillow's: cropped next, it need not become an array first."""
        raise NotImplementedError

    def name_of(self, index: int) -> str:
        """What messages call an image."""
        return f'image {index}'


@dataclass(frozen=True)
class EncodedSource(Source):
    """labels: int32 [N]. channels: 3: everything becomes RGB, 1: grey. A subclass defines `encoded`."""

    labels: np.ndarray
    class_names: tuple[str, ...]
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> str | bytes:
        """The path or the content of an image file; any error but UserError makes the image unreadable."""
        raise NotImplementedError

    def picture(self, index: int) -> dict[str, Any]:
        name = self.name_of(index)
        try:
            encoded = self.encoded(index)
        except UserError:  # it concerns all images, such as a package that is missing
            raise
        except Exception as error:
            raise UnreadableImage(name, f'cannot be read ({reason(error)})') from error
        return {'image': read_picture(encoded, self.channels, name), 'label': int(self.labels[index])}


@dataclass(frozen=True)
class NamedSource(EncodedSource):
    """Encoded images that have paths.

    Attributes:
        names: their paths; of images in an archive, below the path of the archive.
        root: the folder that contains all of them.
    """

    names: Sequence[str]
    root: str
    skipped: str = ''

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        """Of the names below the root."""
        below = '\n'.join(relative(name, self.root) for name in self.names)
        return f'{zlib.crc32(os.fsencode(below)):08x}'

    def name_of(self, index: int) -> str:
        return shown(self.names[index])


@dataclass(frozen=True)
class ArraySource(Source):
    """images: uint8 [N, H, W, C]; labels: int32 [N]."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        return f'{zlib.crc32(self.images.data):08x}'

    def __len__(self) -> int:
        return len(self.images)

    def picture(self, index: int) -> dict[str, Any]:
        return {'image': self.images[index], 'label': int(self.labels[index])}
