"""The kinds of sources, which of them is at a path, and how the images of a split are opened."""

import dataclasses
import functools
import glob
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import listed
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.archive import archive_source, is_archive
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.folder import folder_source, holds_images
from diffusion_jax.data.sources.lmdb import is_lmdb, lmdb_source
from diffusion_jax.data.sources.npz import is_npz, npz_source
from diffusion_jax.data.sources.prepared import is_prepared, prepared_source
from diffusion_jax.data.sources.splits import SPLITS, place_of
from diffusion_jax.data.sources.table import contradicts_folders, is_table, table_source
from diffusion_jax.data.sources.tfds import is_tfds, tfds_source
from diffusion_jax.errors import UserError


class Kind(NamedTuple):
    """One kind of source.

    Attributes:
        opens: (config, split, class names of the training images, or None where these are wanted) → source.
        recognises: whether a path, which exists, is of this kind; it reads few files.
        names_classes: the source itself names the classes of every split; in other kinds those of the test
            images are the classes of the training images.
        numbers_classes: the classes may have numbers only; then config.data.num_classes may tell how many.
    """

    opens: Callable[[DataConfig, str, tuple[str, ...] | None], Source]
    recognises: Callable[[str], bool]
    names_classes: bool = False
    numbers_classes: bool = False


# A new kind is a line here and its name in data.config.KINDS.
KINDS: dict[str, Kind] = {
    'digits': Kind(
        lambda config, split, classes: digits_source(split), recognises=lambda path: False, names_classes=True
    ),
    'folder': Kind(folder_source, holds_images),
    'archive': Kind(archive_source, is_archive),
    'table': Kind(table_source, is_table),
    'npz': Kind(npz_source, is_npz, numbers_classes=True),
    'lmdb': Kind(lmdb_source, is_lmdb),
    'prepared': Kind(prepared_source, is_prepared),
    'tfds': Kind(tfds_source, is_tfds, names_classes=True, numbers_classes=True),
}


def make_source(config: DataConfig, split: str) -> Source:
    """The images of `split`, 'train' or 'test'; listed once in a process (`open_source.cache_clear`).

    Raises:
        UserError: they cannot be used, or have another number of classes than the config.
    """
    config = resolve(config)
    num_classes = config.num_classes if KINDS[config.name].numbers_classes else None
    source = open_source(dataclasses.replace(config, num_classes=num_classes), split)
    count = len(source.class_names)
    if config.num_classes not in (None, max(count, 1)):
        names = f'{count} classes ({listed(source.class_names)})'
        found = names if count else 'no labels, which counts as 1'
        raise UserError('config.data.num_classes', f'{config.num_classes}, but the images have {found}')
    return source


@functools.lru_cache(maxsize=8)  # listing a million files takes seconds
def open_source(config: DataConfig, split: str) -> Source:
    """See `make_source`, which resolves the kind and checks the number of classes."""
    kind = KINDS[config.name]
    # A class keeps its number in the test images, also where some class has none there.
    of_training = split == 'train' or kind.names_classes
    return kind.opens(config, split, None if of_training else open_source(config, 'train').class_names)


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the classes as people read them, in label order; () where images have no labels."""
    return imagenet.readable(source.class_names)


def describe(source: Source) -> dict[str, Any]:
    """What a training depends on in addition to its settings: which images there are, and their classes."""
    return {'classes': list(class_names(source)), 'count': len(source), 'identity': source.identity}


def resolve(config: DataConfig) -> DataConfig:
    """The config with the kind of source that is at its path where its name is 'auto'.

    A folder of that kind that has classes instead of splits is the training split: `train_split` becomes ''.

    Raises:
        UserError: the path is of no kind, or of several.
    """
    if config.name != 'auto':
        return config
    config = dataclasses.replace(config, name='tfds' if config.tfds_name else _kind_at(config))
    if config.name == 'folder' and config.train_split == 'train':
        folders = [name.rstrip(os.sep).lower() for name in glob.glob('*/', root_dir=config.path)]
        if SPLITS.isdisjoint(folders):
            return dataclasses.replace(config, train_split='')
    return config


@functools.lru_cache(maxsize=8)  # reads a table
def _kind_at(config: DataConfig) -> str:
    if not os.path.exists(config.path):
        remedy = 'set it to a folder of images, or an archive, a table or a data set of them'
        raise UserError('config.data.path', f'{shown(config.path)}: no such file or folder', remedy)
    places = {config.path, place_of(config, 'train')[0]}
    found = [name for name, kind in KINDS.items() if any(map(kind.recognises, places))]
    if found == ['folder', 'table'] and not contradicts_folders(config):
        return 'table'  # its images are files, too
    if len(found) > 1:
        names = [f"'{name}'" for name in found]
        problem = f'is data of {len(found)} kinds, {", ".join(names)}'
        raise UserError(shown(config.path), problem, f'set config.data.name to {" or ".join(names)}')
    if not found and not os.path.isdir(config.path):
        kinds = ', '.join(KINDS)
        raise UserError(shown(config.path), 'is a file of no known kind', f'config.data.name may be {kinds}')
    return found[0] if found else 'folder'  # whose errors tell what a folder without images contains
