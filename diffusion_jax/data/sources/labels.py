"""Which class an image has: by its path, as in a folder or an archive, or by what a file says of it."""

import os
from collections.abc import Callable, Collection, Sequence

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.files import relative, shown
from diffusion_jax.data.sources.splits import SPLITS
from diffusion_jax.errors import UserError

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
