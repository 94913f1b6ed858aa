"""Config files: found by path or by name, and run; whatever is wrong with one is named with its line."""

from __future__ import annotations

import difflib
import inspect
import os
import runpy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax.errors import UserError
from diffusion_jax.settings import file_path

# An installed package holds the configs; in a checkout they are beside it.
PACKAGE = Path(__file__).parent
FOLDER = PACKAGE / 'configs' if (PACKAGE / 'configs').is_dir() else PACKAGE.parent / 'configs'
EXAMPLE = FOLDER / 'digits.py'
LIST = '`diffusion-jax configs` lists the names'


class ConfigFile(NamedTuple):
    """A config file, and what its `get_config` is called with: nothing if `argument` is None."""

    path: Path
    argument: str | None = None


class Config(NamedTuple):
    """The experiment of a config file as a plain nested dict, not yet checked, and the file's docstring."""

    experiment: dict[str, Any]
    doc: str


def named_configs() -> dict[str, Path]:
    """The files of the configs that have a name, by these names."""
    return {path.stem: path for path in sorted(FOLDER.glob('[!_]*.py'))}


def find_config(text: str) -> ConfigFile:
    """A path or a name, with or without .py, each perhaps with `:argument`; an existing file comes first.

    Raises:
        UserError: there is no such file or name, or it is no Python file.
    """
    place, colon, argument = text.partition(':')
    if os.path.isfile(file_path(text)):
        place, colon = text, ''
    path = Path(file_path(place))
    if not os.path.isfile(path):
        path = named_configs().get(place.removesuffix('.py')) or _not_found(place)
    if path.suffix != '.py':
        raise UserError(f'{path}: a config is a Python file with a function get_config, such as {EXAMPLE}')
    return ConfigFile(path, argument if colon else None)


def load_config(file: ConfigFile) -> Config:
    """Runs a config file and calls its `get_config`.

    Raises:
        UserError: the file cannot be run, or returns no experiment.
    """
    path = file.path
    try:
        module = runpy.run_path(str(path))
    except Exception as error:
        raise _failed(path, error) from error
    get_config = module.get('get_config')
    if not inspect.isfunction(get_config):
        raise UserError(f'{path}: has no function get_config; an example of a config is {EXAMPLE}')
    where = f'{path}, line {get_config.__code__.co_firstlineno}'
    arguments = () if file.argument is None else (file.argument,)
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        needs = f'needs an argument: --config={path}:ARGUMENT'
        problem = 'takes no argument; omit what follows the colon' if arguments else needs
        raise UserError(f'{where}: get_config {problem}') from error
    try:
        config = get_config(*arguments)
        config = config.to_dict() if isinstance(config, ConfigDict) else config
    except Exception as error:
        raise _failed(path, error) from error
    if not isinstance(config, Mapping):
        raise UserError(f'{where}: get_config returns {config!r}; it must return with_defaults(…)')
    return Config(dict(config), module.get('__doc__') or '')


def _not_found(place: str) -> Path:
    path = Path(file_path(place))
    if os.path.isdir(path):
        raise UserError(f'{place}: is a folder; give a config file, or a name: {LIST}')
    if os.path.isfile(f'{path}.py'):
        raise UserError(f'{place}: no such config; did you mean {place}.py?')
    meant = difflib.get_close_matches(path.stem, named_configs(), 1)
    hint = f'did you mean {meant[0]}? ' if meant else ''
    raise UserError(f'{place}: no such config file or name; {hint}{LIST}')


def _failed(path: Path, error: Exception) -> UserError:
    """What a config file raised, as one line that names its line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines = [error.lineno]
    text = ' '.join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    if isinstance(error, ModuleNotFoundError):
        text += '; install it, or remove the import (a config file cannot import its neighbours)'
    elif not isinstance(error, UserError):
        text = f'{type(error).__name__}: {text}'
    return UserError(f'{path}{f", line {lines[-1]}" if lines and lines[-1] else ""}: {text}')
