"""The kinds of sources, and which of them is at a path."""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
from collections.abc import Callable
from typing import NamedTuple

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
from diffusion_jax.data.sources.tfds import tfds_source, version_folder
from diffusion_jax.errors import UserError


class Kind(NamedTuple):
    """One kind of source.

    Attributes:
        opens: (config, split, class names of the training images, or None where these are wanted) → source.
        recognises: a path, which exists, → true where it is of this kind; it reads few files.
        names_classes: the source itself names the classes of every split; in other kinds those of the test
            images are the classes of the training images.
        numbers_classes: the classes may have numbers only; then config.data.num_classes may tell how many.
    """

    opens: Callable[[DataConfig, str, tuple[str, ...] | None], Source]
    recognises: Callable[[str], object]
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
    'tfds': Kind(tfds_source, version_folder, names_classes=True, numbers_classes=True),
}


def resolve(config: DataConfig) -> DataConfig:
    """The config with the kind of source that is at its path where its name is 'auto'.

    A folder of that kind that has classes instead of splits is the training split: `train_split` becomes ''.

    Raises:
        UserError: the path is of no kind, or of several.
    """
    if config.name != 'auto':
        return config
    name = 'tfds' if config.tfds_name else _kind_at(config)
    if name == 'folder' and config.train_split == 'train' and _has_no_splits(config.path):
        return dataclasses.replace(config, name=name, train_split='')
    return dataclasses.replace(config, name=name)


@functools.lru_cache(maxsize=8)  # reads a table
def _kind_at(config: DataConfig) -> str:
    if not os.path.exists(config.path):
        remedy = 'set it to a folder of images, or an archive, a table or a data set of them'
        raise UserError('config.data.path', f'{shown(config.path)}: no such file or folder', remedy)
    places = {config.path, place_of(config, 'train').path}
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


def _has_no_splits(folder: str) -> bool:
    return SPLITS.isdisjoint(name.rstrip(os.sep).lower() for name in glob.glob('*/', root_dir=folder))
