"""Where images come from: one file a kind of source."""

from __future__ import annotations

from typing import Any, Protocol

from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import listed
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.data.sources.folder import folder_source
from diffusion_jax.data.sources.tfds import tfds_source
from diffusion_jax.errors import UserError


class Source(Protocol):
    """Images by index, each of its own size.

    One that holds arrays also offers `gather`; see ArraySource. One that reads files also offers `name_of`,
    which names the image of an index in messages. A folder has `paths`, and `skipped`; see FolderSource.
    """

    class_names: tuple[str, ...]  # the name of label i is class_names[i]; empty where images have no labels
    identity: str  # differs for other images: it stands for the names of files, or a data set's version

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{'image': uint8 [H, W, C], 'label': int}; the label is 0 where images have none.

        Raises UnreadableImage where the image cannot be used.
        """
        ...


def name_of(source: Source, index: int) -> str:
    """What to call an image in messages: its path, or its place in the source."""
    return source.name_of(index) if hasattr(source, 'name_of') else f'image {index}'


def make_source(config: DataConfig, split: str) -> Source:
    """The images of `split`, 'train' or 'test'. Raises UserError where they are not as the config says."""
    source = {'digits': _digits, 'folder': _folder, 'tfds': _tfds}[config.name](config, split)
    found = len(source.class_names)
    if config.num_classes not in (None, max(found, 1)):
        has = f'{found} classes ({listed(source.class_names)})' if found else 'no labels, for which it is 1'
        raise UserError(f'config.data.num_classes is {config.num_classes}; the images have {has}')
    return source


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the classes as people read them, in label order; () where images have no labels."""
    return imagenet.readable(source.class_names)


def describe(source: Source) -> dict[str, Any]:
    """What a training depends on beside its settings: which images there are, and what their labels mean."""
    return {'classes': list(class_names(source)), 'count': len(source), 'identity': source.identity}


def _digits(config: DataConfig, split: str) -> Source:
    return digits_source(split)


def _folder(config: DataConfig, split: str) -> Source:
    train = folder_source(config.path, config.train_split, config.labels, config.image_channels)
    if split == 'train':
        return train
    # A class keeps its number in the test images, also where some class has none there.
    return folder_source(
        config.path,
        config.test_split,
        config.labels,
        config.image_channels,
        class_names=train.class_names,
        setting='test_split',
    )


def _tfds(config: DataConfig, split: str) -> Source:
    name = {'train': config.train_split, 'test': config.test_split}[split]
    return tfds_source(
        config.tfds_name,
        config.path,
        name,
        config.image_channels,
        labelled=config.labels != 'none',
        num_classes=config.num_classes,
    )
