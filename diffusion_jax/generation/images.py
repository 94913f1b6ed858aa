"""Stored images as PNG files, one an image, named <index>_<label>.png."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.errors import UserError
from diffusion_jax.generation.grid import save_png
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress


def write_pngs(images: ImageSet, directory: Path, stop: Callable[[], bool], *, labelled: bool = True) -> int:
    """Writes the missing PNG files of a set of images, each file completely or not at all.

    Args:
        labelled: the names carry the labels, where the set has some; otherwise they are <index>.png.

    Returns:
        The number of images.

    Raises:
        UserError: the folder has other PNG files, or other images under these names; nothing is overwritten.
        Interrupted: because `stop` said so; the next call writes the rest.
    """
    names = _names(images, images.labels if labelled else None)
    others = {path.name for path in directory.glob('*.png')}.difference(names)
    if others:
        raise UserError(
            f'{directory}: contains {min(others)}, which is no image of {images.name}; choose another folder'
        )
    done = 0
    with Progress('PNG files', len(names), at_first='') as progress:
        for part in images.parts:
            for image in images.read(part).images:
                if stop():
                    raise Interrupted(f'{directory}: stopped after {done} of {len(names)} PNG files')
                _write(directory / names[done], image, images.name)
                done += 1
                progress.update(done)
    return done


def count_pngs(directory: Path) -> int:
    return sum(1 for _ in directory.glob('*.png'))


def _names(images: ImageSet, labels: np.ndarray | None) -> Sequence[str]:
    indices = [index for part in images.parts for index in range(part.start, part.stop)]
    suffixes = [''] * len(indices) if labels is None else [f'_{label}' for label in labels]
    return [f'{index:06d}{suffix}.png' for index, suffix in zip(indices, suffixes, strict=True)]


def _write(path: Path, image: np.ndarray, source: str) -> None:
    if not path.exists():
        save_png(path, image)
    elif not np.array_equal(_read(path), image[..., 0] if image.shape[-1] == 1 else image):
        raise UserError(f'{path}: is not the image in {source}; remove it or choose another folder')


def _read(path: Path) -> np.ndarray | None:
    """The pixels of a PNG file; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except OSError:
        return None
