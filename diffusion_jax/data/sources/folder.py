"""A folder of image files."""

from __future__ import annotations

import functools
import glob
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.data.sources.base import PictureSource
from diffusion_jax.data.sources.files import Listing, list_images, shown
from diffusion_jax.data.sources.reading import read_picture
from diffusion_jax.errors import UserError

SPLITS = frozenset({'train', 'training', 'val', 'valid', 'validation', 'test'})


@dataclass(frozen=True)
class FolderSource(PictureSource):
    paths: Sequence[str] = field()  # without the default of Source
    labels: np.ndarray  # int32 [N]
    class_names: tuple[str, ...]
    channels: int  # 3: everything becomes RGB, 1: grey
    root: str
    skipped: str = ''

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        names = '\n'.join(_relative(path, self.root) for path in self.paths)
        return f'{zlib.crc32(os.fsencode(names)):08x}'

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> dict[str, Any]:
        return {'image': read_picture(self.paths[index], self.channels), 'label': int(self.labels[index])}

    def name_of(self, index: int) -> str:
        return shown(self.paths[index])


def folder_source(
    path: str,
    split: str,
    labels: str,
    channels: int,
    class_names: tuple[str, ...] | None = None,
    *,
    setting: str = 'train_split',
) -> FolderSource:
    """All images below `path/split`, in the order of their names.

    labels: 'folder', one sub-folder a class; 'prefix', the file name up to its first '_' (as in the authors'
    release); 'none'. Classes are numbered in the order of their names, unless `class_names` fixes the order.
    setting: which setting of config.data gives `split`, for errors.
    """
    root = os.path.join(path, split) if split else path
    if not os.path.isdir(root):
        problem = 'is a file' if os.path.exists(root) else 'no such folder'
        folders = listed([shown(name) for name in sorted(glob.glob('*/', root_dir=path))])
        if folders:
            problem += f'; the folders in {shown(path)} are {folders}'
        remedy = (
            f"set config.data.path to a folder of images, and config.data.{setting} to a folder in it or ''"
        )
        raise UserError(shown(root), problem, remedy)
    listing = open_listing(root)
    paths = listing.paths
    if labels == 'none':
        return FolderSource(paths, np.zeros(len(paths), np.int32), (), channels, root, listing.summary())
    class_of = {'folder': _sub_folder, 'prefix': _prefix}[labels]
    classes = [class_of(path, root) for path in paths]
    if class_names is None:
        class_names = tuple(sorted(set(classes)))
        if len(class_names) > 1 and SPLITS.issuperset(name.lower() for name in class_names):
            raise UserError(
                shown(root),
                f'its folders {", ".join(class_names)} are splits, not classes',
                f"set config.data.{setting} to one of them, or config.data.labels to 'none'",
            )
    number = {name: i for i, name in enumerate(class_names)}
    for path, name in zip(paths, classes, strict=True):
        if name not in number:
            remedy = 'rename the class to one that has some, or remove the image'
            raise UserError(shown(path), f'its class {name!r} has no training images', remedy)
    numbers = np.array([number[name] for name in classes], np.int32)
    return FolderSource(paths, numbers, class_names, channels, root, listing.summary())


def open_listing(root: str) -> Listing:
    """The images of a folder. Raises UserError where there are none."""
    listing = list_images(root)
    if not listing.paths:
        raise UserError(
            shown(root),
            f'contains no images ({listing.summary() or "it is empty"})',
            'images have a suffix that Pillow reads, such as .jpg, .png or .webp; sub-folders are searched',
        )
    return listing


def _relative(path: str, root: str) -> str:
    return path[len(root) :].lstrip(os.sep)  # os.path.relpath takes seconds for a million files


def _sub_folder(path: str, root: str) -> str:
    name, *rest = _relative(path, root).split(os.sep)
    if not rest:
        raise UserError(
            shown(path),
            'is in no sub-folder, which would be its class',
            "sort the images into one sub-folder a class, or set config.data.labels to 'prefix' or 'none'",
        )
    return shown(name)


def _prefix(path: str, root: str) -> str:
    name, underscore, _ = os.path.basename(path).partition('_')
    if not name or not underscore:
        raise UserError(
            shown(path),
            "its name has no class before a '_'",
            "rename the image (such as cat_1.png), or set config.data.labels to 'folder' or 'none'",
        )
    return shown(name)
