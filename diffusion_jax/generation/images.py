"""Sets of images as PNG files, one an image, named <index>_<label>.png."""

from collections.abc import Callable
from pathlib import Path

from diffusion_jax import workdir
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.errors import UserError
from diffusion_jax.generation.grid import png_bytes
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress


def write_pngs(images: ImageSet, directory: Path, stop: Callable[[], bool], *, labelled: bool = True) -> int:
    """Writes the missing PNG files of a set of images, each atomically; returns the number of images.

    Args:
        labelled: the names contain the labels, where the set has some; otherwise they are <index>.png.

    Raises:
        UserError: the folder has other PNG files, or other images under these names; nothing is overwritten.
        Interrupted: `stop` returned True; the next call writes the rest.
    """
    names = [f'{index:06d}' for part in images.parts for index in range(part.start, part.stop)]
    if labelled and images.labels is not None:
        names = [f'{name}_{label}' for name, label in zip(names, images.labels, strict=True)]
    others = {path.name for path in directory.glob('*.png')}.difference(f'{name}.png' for name in names)
    if others:
        problem = f'contains {min(others)}, which is no image of {images.name}'
        raise UserError(str(directory), problem, 'choose another folder')
    pixels = (image for part in images.parts for image in images.read(part).images)
    with Progress('PNG files', len(names)) as progress:
        for done, (name, image) in enumerate(zip(names, pixels, strict=True)):
            if stop():
                raise Interrupted(f'{directory}: stopped after {done} of {len(names)} PNG files')
            path, content = directory / f'{name}.png', png_bytes(image)
            if not path.exists():
                workdir.write_bytes(path, content)
            elif path.read_bytes() != content:
                problem = f'is not the image of {images.name}'
                raise UserError(str(path), problem, 'remove it or choose another folder')
            progress.update(done + 1)
    return len(names)


def count_pngs(directory: Path) -> int:
    return sum(1 for _ in directory.glob('*.png'))
