"""Which images are of a split, and of which class: by their paths, or by what a file says of them."""

import glob
import os
from collections.abc import Callable, Collection, Sequence

import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.files import relative, shown
from diffusion_jax.errors import UserError

SPLITS = frozenset({'train', 'training', 'val', 'valid', 'validation', 'test'})
# For each value of config.data.labels, what is wrong with a path that gives no class, and the remedy.
NO_CLASS = {
    'folder': (
        'is in no sub-folder, which would be its class',
        "sort the images into one sub-folder a class, or set config.data.labels to 'prefix' or 'none'",
    ),
    'prefix': (
        "its name has no class before a '_'",
        "rename the image (such as cat_1.png), or set config.data.labels to 'folder' or 'none'",
    ),
}


def name_of_split(config: DataConfig, split: str) -> str:
    return {'train': config.train_split, 'test': config.test_split}[split]


def place_of(config: DataConfig, split: str) -> tuple[str, str]:
    """A file or folder, and which split inside it is meant, '' for everything.

    It is config.data.path with the name of the split, if that exists; otherwise the split is inside the path.
    """
    name = name_of_split(config, split)
    own = os.path.join(config.path, name)
    return (own, '') if name and os.path.exists(own) else (config.path, name)


def check_undivided(config: DataConfig, split: str, what: str) -> str:
    """The path of a file that has no splits in it; it holds the training images.

    Raises:
        UserError: the test images are wanted, or a split of another name, and are in no file of their own.
    """
    path, inside = place_of(config, split)
    if inside and not inside == split == 'train':
        raise UserError(
            f'config.data.{split}_split',
            f'got {inside!r}, but {shown(path)}, {what}, has no splits',
            'set config.data.path to a folder of two of them, and train_split and test_split to their names',
        )
    return path


def no_split(config: DataConfig, split: str) -> UserError:
    """The error for a split of a folder that does not exist."""
    path, name = config.path, name_of_split(config, split)
    root = os.path.join(path, name) if name else path
    problem = 'is a file' if os.path.exists(root) else 'no such folder'
    folders = listed([shown(folder) for folder in sorted(glob.glob('*/', root_dir=path))])
    if folders:
        problem += f'; the folders in {shown(path)} are {folders}'
    setting = f'config.data.{split}_split'
    remedy = f"set config.data.path to a folder of images, and {setting} to a folder in it or ''"
    return UserError(shown(root), problem, remedy)


def by_path(
    paths: Sequence[str], root: str, config: DataConfig, split: str, class_names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of images, int32 [N], and the names of the classes, from paths below `root`.

    class_names: fixes the order of the classes; None is that of their names.
    """
    if config.labels == 'none':
        return np.zeros(len(paths), np.int32), ()
    classes = [_class_of(path, root, config.labels) for path in paths]
    if class_names is None:
        class_names = tuple(sorted(set(classes)))
        if len(class_names) > 1 and SPLITS.issuperset(name.lower() for name in class_names):
            problem = f'its folders {", ".join(class_names)} are splits, not classes'
            remedy = f"set config.data.{split}_split to one of them, or config.data.labels to 'none'"
            raise UserError(shown(root), problem, remedy)
    return numbered(classes, class_names, lambda i: shown(paths[i])), class_names


def numbered(classes: Sequence[str], class_names: Sequence[str], name_of: Callable[[int], str]) -> np.ndarray:
    """int32 [N], the numbers of the classes of images. Raises UserError for a class without a number.

    name_of: what the image of an index is called.
    """
    number = {name: i for i, name in enumerate(class_names)}
    for i, name in enumerate(classes):
        if name not in number:
            remedy = 'rename the class to one that has some, or remove the image'
            raise UserError(name_of(i), f'its class {name!r} has no training images', remedy)
    return np.array([number[name] for name in classes], np.int32)


def _class_of(path: str, root: str, labels: str) -> str:
    if labels == 'folder':
        name, separator, _ = relative(path, root).partition(os.sep)
    else:
        name, separator, _ = os.path.basename(path).partition('_')
    if not name or not separator:
        raise UserError(shown(path), *NO_CLASS[labels])
    return shown(name)


def integer_classes(numbers: Collection[int], num_classes: int | None = None) -> tuple[str, ...]:
    """The names of classes that have numbers: those that occur, or all below a larger `num_classes`."""
    if num_classes is not None and max(numbers) < num_classes:
        return tuple(map(str, range(num_classes)))
    return tuple(map(str, sorted(set(numbers))))
