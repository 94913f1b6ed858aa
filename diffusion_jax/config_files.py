"""Config files: found by path or by name, and run; an error in one names the file and its line."""

import contextlib
import difflib
import os
import runpy
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax.errors import UserError
from diffusion_jax.settings import file_path

# An installed package holds the configs; in a checkout they are next to it.
PACKAGE = Path(__file__).parent
FOLDER = PACKAGE / 'configs' if (PACKAGE / 'configs').is_dir() else PACKAGE.parent / 'configs'
LIST = '`diffusion-jax configs` lists the names'


class Config(NamedTuple):
    """A config file, its experiment as a plain nested dict, not yet checked, and its docstring."""

    path: Path
    experiment: dict[str, Any]
    doc: str


def named_configs() -> dict[str, Path]:
    """The files of the configs that have a name, by these names."""
    return {path.stem: path for path in sorted(FOLDER.glob('[!_]*.py'))}


def load_config(text: str) -> Config:
    """Runs a config file and calls its `get_config`.

    Raises UserError if there is no such file or name, it cannot be run, or it returns no experiment.

    text: a path or a name, with or without .py; `:argument` after it is an argument for `get_config`. An
        existing file takes precedence.
    """
    path, arguments = _find(text)
    with _located(path):
        module = runpy.run_path(str(path))
    if not callable(module.get('get_config')):
        raise UserError(str(path), 'has no function get_config', f'see {FOLDER / "digits.py"} for an example')
    with _located(path):
        config = module['get_config'](*arguments)
        config = config.to_dict() if isinstance(config, ConfigDict) else config
    if not isinstance(config, Mapping):
        raise UserError(str(path), f'get_config returns {config!r}', 'it must return with_defaults(…)')
    return Config(path, dict(config), module.get('__doc__') or '')


def _find(text: str) -> tuple[Path, tuple[str, ...]]:
    """The file, and the arguments for its `get_config`."""
    place, colon, argument = text.partition(':')
    if os.path.isfile(file_path(text)):
        place, colon = text, ''
    path, name, names = Path(file_path(place)), place.removesuffix('.py'), named_configs()
    if not path.is_file():
        if name not in names:
            close = difflib.get_close_matches(path.stem, names, 1)
            meant = f'{place}.py' if os.path.isfile(f'{path}.py') else ''.join(close)
            remedy = f'did you mean {meant}?' if meant else f'give a Python file or a name; {LIST}'
            raise UserError(place, 'is a folder' if path.is_dir() else 'no such config file or name', remedy)
        path = names[name]
    if path.suffix != '.py':
        raise UserError(str(path), 'is not a Python file', 'a config is a Python file with a get_config')
    return path, (argument,) if colon else ()


@contextlib.contextmanager
def _located(path: Path) -> Iterator[None]:
    """Raises UserError, with the line of the file, for any error in the block."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines = [error.lineno]
        where = f'{path}, line {lines[-1]}' if lines else str(path)
        if isinstance(error, UserError):
            raise UserError(f'{where}: {error.where}', error.problem, error.remedy) from error
        missing = isinstance(error, ModuleNotFoundError)
        remedy = 'install it, or remove the import (a config file cannot import its neighbours)'
        problem = f'{type(error).__name__}: {" ".join(str(error).split())}'
        raise UserError(where, problem, remedy if missing else '') from error
