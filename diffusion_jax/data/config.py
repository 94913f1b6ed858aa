"""Which images a run reads, and how they are prepared."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_jax.checks import between, one_of
from diffusion_jax.errors import UserError
from diffusion_jax.settings import FilePath


@dataclass(frozen=True)
class DataConfig:
    """Attributes:
    name: 'digits', scikit-learn's 8×8 digits; 'folder', image files; 'tfds', a prepared TensorFlow data set.
    path: of a folder, the directory; of tfds, its data_dir. '' is the library's default.
    tfds_name: the data set of tfds, such as 'cifar10' or 'my_data:1.0.0'.
    train_split: of a folder, the sub-directory of `path` with training images, '' for `path` itself; of tfds,
        the split's name.
    test_split: the same for test images.
    labels: the class of an image in a folder is its sub-folder ('folder'), or its file name up to '_'
        ('prefix'), or there is none ('none'). The second is that of the authors' release.
    num_classes: the number of classes; 1 where images have no labels.
    image_size: height and width to which images are cropped.
    image_channels: 1, grey, or 3, RGB.
    low_res_size: height and width of the images that an upsampler enlarges; None is no upsampler. In training
        they are the training image's own means over areas.
    num_workers: threads that load batches ahead of the training step.
    """

    name: str
    path: FilePath = ''
    tfds_name: str = ''
    train_split: str = 'train'
    test_split: str = 'test'
    labels: str = 'folder'
    num_classes: int = 10
    image_size: tuple[int, int] = (8, 8)
    image_channels: int = 1
    low_res_size: tuple[int, int] | None = None
    num_workers: int = 0


def check_data(config: DataConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('name', config.name, ('digits', 'folder', 'tfds'))
    one_of('labels', config.labels, ('folder', 'prefix', 'none'))
    one_of('image_channels', config.image_channels, (1, 3))
    between('num_classes', config.num_classes, 1)
    between('num_workers', config.num_workers, 0)
    for side in config.image_size:
        between('image_size', side, 1)
    for low, side in zip(config.low_res_size or (), config.image_size, strict=False):
        between('low_res_size', low, 1, below=side)
    if config.name == 'digits':
        for key, only in (('image_size', (8, 8)), ('image_channels', 1), ('num_classes', 10)):
            if getattr(config, key) != only:
                raise UserError(f'{key} is {getattr(config, key)}; it must be {only} where name is digits')
    if config.name == 'folder' and not config.path:
        raise UserError("path is ''; name='folder' needs the directory that holds the images")
    if config.name == 'tfds' and not config.tfds_name:
        raise UserError("tfds_name is ''; name='tfds' needs a data set, such as 'cifar10'")
