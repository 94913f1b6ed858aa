"""A folder of image files."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.errors import UserError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.gif')
# What Pillow raises for files that are damaged, or claim to be too large.
NOT_AN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class FolderSource:
    paths: Sequence[str]
    labels: np.ndarray  # int32 [N]
    class_names: tuple[str, ...]
    channels: int  # 3: everything becomes RGB, 1: grey
    root: str

    @functools.cached_property
    def identity(self) -> str:
        names = '\n'.join(path[len(self.root) :].lstrip(os.sep) for path in self.paths)
        return f'{zlib.crc32(os.fsencode(names)):08x}'

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'image': read_image(self.paths[index], self.channels), 'label': int(self.labels[index])}


def folder_source(
    path: str,
    split: str,
    labels: str,
    channels: int,
    class_names: tuple[str, ...] | None = None,
) -> FolderSource:
    """All images below `path/split`, in the order of their names.

    labels: 'folder', one sub-folder a class; 'prefix', the file name up to its first '_' (as in the authors'
    release); 'none'. Classes are numbered in the order of their names, unless `class_names` fixes the order.
    """
    root = os.path.join(path, split) if split else path
    if not os.path.isdir(root):
        raise UserError(f'{root}: no such directory; see config.data.path, train_split, test_split')
    paths = list_images(root)
    if not paths:
        raise UserError(f'{root}: no image there; looked for {", ".join(EXTENSIONS)} in it and below it')
    if labels == 'none':
        return FolderSource(paths, np.zeros(len(paths), np.int32), (), channels, root)

    class_of = {'folder': _sub_folder, 'prefix': _prefix}[labels]
    classes = [class_of(path, root) for path in paths]
    class_names = tuple(sorted(set(classes))) if class_names is None else class_names
    number = {name: i for i, name in enumerate(class_names)}
    for path, name in zip(paths, classes, strict=True):
        if name not in number:
            raise UserError(
                f'{path}: its class {name!r} has no training images; '
                'name it like one that has some, or remove the image'
            )
    numbers = np.array([number[name] for name in classes], np.int32)
    return FolderSource(paths, numbers, class_names, channels, root)


def list_images(root: str) -> list[str]:
    """Paths of all images in and below a directory, sorted; hidden files and directories are left out."""
    paths = []
    for directory, children, files in os.walk(root, followlinks=True):
        children[:] = [name for name in children if not name.startswith('.')]
        names = [name for name in files if not name.startswith('.') and name.lower().endswith(EXTENSIONS)]
        paths += [os.path.join(directory, name) for name in names]
    return sorted(paths)


def read_image(path: str, channels: int) -> np.ndarray:
    """uint8 [H, W, channels]; palettes are resolved, alpha is dropped, an animation gives its first frame."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(('I', 'F')):
                raise UserError(f'{path}: has more than 8 bits a channel; convert it to 8 bits')
            pixels = np.asarray(image.convert({1: 'L', 3: 'RGB'}[channels]))
    except NOT_AN_IMAGE as error:
        raise UserError(f'{path}: cannot be read as an image ({error}); repair or remove it') from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _sub_folder(path: str, root: str) -> str:
    name, *rest = os.path.relpath(path, root).split(os.sep)
    if not rest:
        raise UserError(
            f'{path}: lies in no sub-folder, which would name its class; sort the images into one sub-folder '
            "a class, or set config.data.labels to 'prefix' or 'none'"
        )
    return name


def _prefix(path: str, root: str) -> str:
    return os.path.basename(path).split('_')[0]
