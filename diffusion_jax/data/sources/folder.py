"""A folder of image files."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_jax.data.sources.files import Listing, list_images, shown
from diffusion_jax.data.sources.reading import read_image
from diffusion_jax.errors import UserError

MOST_NAMES = 5
SPLITS = frozenset({'train', 'training', 'val', 'valid', 'validation', 'test'})


@dataclass(frozen=True)
class FolderSource:
    paths: Sequence[str]
    labels: np.ndarray  # int32 [N]
    class_names: tuple[str, ...]
    channels: int  # 3: everything becomes RGB, 1: grey
    root: str
    skipped: str = ''  # what of the folder was skipped; see Listing.summary

    @functools.cached_property
    def identity(self) -> str:
        names = '\n'.join(path[len(self.root) :].lstrip(os.sep) for path in self.paths)
        return f'{zlib.crc32(os.fsencode(names)):08x}'

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'image': read_image(self.paths[index], self.channels), 'label': int(self.labels[index])}

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
    _check_root(path, root, setting)
    listing = list_images(root)
    paths = listing.paths
    if not paths:
        raise _no_image(listing)
    if labels == 'none':
        return FolderSource(paths, np.zeros(len(paths), np.int32), (), channels, root, listing.summary())

    class_of = {'folder': _sub_folder, 'prefix': _prefix}[labels]
    classes = [class_of(path, root) for path in paths]
    class_names = _class_names(root, classes, setting) if class_names is None else class_names
    number = {name: i for i, name in enumerate(class_names)}
    for path, name in zip(paths, classes, strict=True):
        if name not in number:
            raise UserError(
                f'{shown(path)}: its class {name!r} has no training images; '
                'name it like one that has some, or remove the image'
            )
    numbers = np.array([number[name] for name in classes], np.int32)
    return FolderSource(paths, numbers, class_names, channels, root, listing.summary())


def open_listing(root: str) -> Listing:
    """The images of a folder. UserError where there is no folder, or no image in it."""
    if not os.path.isdir(root):
        raise UserError(f'{shown(root)}: no such folder')
    listing = list_images(root)
    if not listing.paths:
        raise _no_image(listing)
    return listing


def _no_image(listing: Listing) -> UserError:
    found = listing.summary() or 'it is empty'
    return UserError(
        f'{shown(listing.root)}: no image there; images are files with a suffix that Pillow reads, such as '
        f'.jpg, .png or .webp, in it and below it; {found}'
    )


def _check_root(path: str, root: str, setting: str) -> None:
    """UserError unless `root` is a folder; the message says what there is instead, and what to set."""
    if os.path.isdir(root):
        return
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(
            f'{shown(path)}: is a file; set config.data.path to the folder that holds the images, and unpack '
            'an archive first'
        )
    if root != path and os.path.exists(root):
        raise UserError(f'{shown(root)}: is a file; set config.data.{setting} to the name of a folder')
    advice = 'set config.data.path to the folder that holds the images'
    if os.path.isdir(path):
        advice = (
            f'{shown(path)} has {_content(path)}; set config.data.{setting} to the folder of these images, '
            f"or to '' if they lie directly in {shown(path)}, in class folders or not"
        )
    raise UserError(f'{shown(root)}: no such directory; {advice}')


def _content(path: str) -> str:
    """What a folder has, in a few words."""
    try:
        found = os.scandir(path)
    except OSError as error:
        raise UserError(f'{shown(path)}: cannot be read ({error.strerror}); see config.data.path') from error
    with found:
        entries = sorted((entry for entry in found if not entry.name.startswith('.')), key=lambda e: e.name)
    folders = [shown(entry.name) for entry in entries if entry.is_dir()]
    more = ', …' if len(folders) > MOST_NAMES else ''
    named = f' ({", ".join(folders[:MOST_NAMES])}{more})' if folders else ''
    return f'{len(folders):,} folders{named} and {len(entries) - len(folders):,} files'


def _class_names(root: str, classes: Sequence[str], setting: str) -> tuple[str, ...]:
    """UserError where the folders of splits would become classes."""
    names = tuple(sorted(set(classes)))
    if len(names) > 1 and SPLITS.issuperset(name.lower() for name in names):
        raise UserError(
            f'{shown(root)}: its folders {", ".join(names)} are splits rather than classes; set '
            f"config.data.{setting} to the name of one of them, or config.data.labels to 'none'"
        )
    return names


def _sub_folder(path: str, root: str) -> str:
    name, *rest = os.path.relpath(path, root).split(os.sep)
    if not rest:
        raise UserError(
            f'{shown(path)}: lies in no sub-folder, which would name its class; sort the images into one '
            "sub-folder a class, or set config.data.labels to 'prefix' or 'none'"
        )
    return shown(name)


def _prefix(path: str, root: str) -> str:
    name, underscore, _ = os.path.basename(path).partition('_')
    if not name or not underscore:
        raise UserError(
            f"{shown(path)}: its name has no class before a '_', as config.data.labels='prefix' needs (such "
            "as cat_1.png); rename the image, or set config.data.labels to 'folder' or 'none'"
        )
    return shown(name)
