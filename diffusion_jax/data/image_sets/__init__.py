"""Images on disk that are read once, in order: samples, and what they are compared with."""

from pathlib import Path

from diffusion_jax.data.image_sets.archive import open_archive, open_samples, shard_folder
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.data.image_sets.source import open_folder
from diffusion_jax.images import Size


def open_images(path: str | Path, size: Size | None = None) -> ImageSet:
    """The images of an npz in the authors' format, of a folder of image files, or of a folder of samples.

    Args:
        size: image files are centre-cropped to this height and width, as for training.

    Raises:
        UserError: there are none, or they cannot be used together.
    """
    path = Path(path)
    if not path.is_dir():
        return open_archive(path)
    return open_folder(path, size) if shard_folder(path) is None else open_samples(path)
