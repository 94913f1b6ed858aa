"""Where the images of a split are: in a file or folder of their own, or together with those of the other."""

import glob
import os

from diffusion_jax.data.classes import listed
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.files import shown
from diffusion_jax.errors import UserError

SPLITS = frozenset({'train', 'training', 'val', 'valid', 'validation', 'test'})


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
