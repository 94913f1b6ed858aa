"""From nested mappings, or texts of a command line, to dataclasses; errors name the setting and its type.

The type of each setting is the annotation of its field; its meaning is in the dataclass's docstring.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from diffusion_jax.errors import UserError

# A setting that names a file or a folder (or, as some may, something else by a word).
FilePath = Annotated[str, 'path']

TRUTH = {'true': True, 't': True, 'yes': True, '1': True, 'false': False, 'f': False, 'no': False, '0': False}
WORDS = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    str: 'a text in quotes',
    FilePath: 'a path in quotes',
    type(None): 'None',
}
LONGEST = 80  # characters of a value in a message
UNIONS = (types.UnionType, typing.Union)
PLURALS = {int: 'whole numbers', float: 'numbers', str: 'texts', int | str: 'whole numbers or texts'}


def read_section(cls: type, section: Any, where: str, derived: Mapping[str, Any] | None = None) -> Any:
    """A dataclass from a mapping of exactly its fields, those with defaults optional.

    Args:
        where: what the section is called, for messages: 'config.unet'.
        derived: fields that follow from other sections; naming one in this section is an error.
    """
    if isinstance(section, cls):
        return section
    section = _mapping(section, cls, where)
    derived = derived or {}
    own = [field.name for field in dataclasses.fields(cls) if field.name not in derived]
    for key in section:
        if key not in own:
            meant = nearest(key, own)
            hint = f'did you mean {meant[0]}?' if meant else f'known are {", ".join(own)}'
            hint = 'it follows from other sections' if key in derived else hint
            raise UserError(f'{where}.{key}: no such setting; {hint}')
    _require(section, cls, where, derived)
    hints = types_of(cls)
    values = {key: read_value(hints[key], value, f'{where}.{key}') for key, value in section.items()}
    return cls(**values, **derived)


def read_value(hint: Any, value: Any, where: str) -> Any:
    """A value of the annotated type. Whole numbers serve as floats and lists as tuples, nothing else."""
    cls = not_none(hint)
    if dataclasses.is_dataclass(cls) and (value is not None or cls is hint):
        return read_section(cls, value, where)
    try:
        return _convert(hint, value)
    except ValueError as error:
        text = repr(value)
        shown = text if len(text) <= LONGEST else f'{text[:LONGEST]} …'
        raise UserError(f'{where} is {shown}; {_allowed(hint, text)}') from error


def read_text(hint: Any, text: str | None, where: str) -> Any:
    """The value of the annotated type that a user typed; None is a flag without a value, which is 'true'."""
    if text is None and hint is not bool:
        raise UserError(f'{where} has no value; give one after =')
    try:
        return _parse(hint, 'true' if text is None else text)
    except ValueError as error:
        shown = text if typing.get_origin(not_none(hint)) is tuple else repr(text)
        raise UserError(f'{where} is {shown}; {_allowed(hint, shown)}') from error


def file_path(value: str | os.PathLike[str]) -> str:
    """A path that a user gave: ~ is their home, and `images/` and `./images` are `images`; '' stays ''."""
    text = os.fspath(value)
    return text if not text or '://' in text else str(Path(os.path.expanduser(text)))


def types_of(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields by their names."""
    return typing.get_type_hints(cls, include_extras=True)


def not_none(hint: Any) -> Any:
    """X for the type `X | None`; any other type as it is."""
    options = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else ()
    others = [option for option in options if option is not type(None)]
    return others[0] if len(others) == 1 else hint


def nearest(name: str, known: Collection[str]) -> list[str]:
    """Which dotted `known` names are probably meant: none, one, or one in each of several sections."""
    section, _, last = name.replace('-', '_').rpartition('.')
    split = {each: each.rpartition('.') for each in known}
    close = difflib.get_close_matches(last, {own for _, _, own in split.values()}, 1, 0.75)
    found = [each for each in known if split[each][2] in close or (not close and each.endswith(f'_{last}'))]
    sections = difflib.get_close_matches(section, {split[each][0] for each in found}, 1)
    return [each for each in found if split[each][0] in sections] or found


def meanings(cls: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of each field, in their sections `Attributes:`."""
    found = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__dict__.get('__doc__') or '')
        lines = doc.partition('Attributes:\n')[2].partition('\n\n')[0]
        entry = ''
        for line in inspect.cleandoc('\n' + lines).splitlines():
            if match := re.match(r'(\w+(?:, \w+)*): (.*)', line):
                entry, text = match.groups()
                found |= dict.fromkeys(entry.split(', '), text)
            else:
                found |= {name: f'{found[name]} {line.strip()}' for name in entry.split(', ')}
    return found


def _convert(hint: Any, value: Any) -> Any:
    """ValueError unless the value, of a file, is of the type."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in UNIONS:
        return _first(inner, _convert, value)
    if hint == FilePath and isinstance(value, (str, os.PathLike)):
        return file_path(value)
    if typing.get_origin(hint) is tuple and isinstance(value, (tuple, list)):
        _check_length(inner, value)
        return tuple(_convert(inner[0], item) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(error) from error
    if type(value) is hint:
        return value
    raise ValueError


def _parse(hint: Any, text: str) -> Any:
    """ValueError unless the text reads as a value of the type."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in UNIONS:
        return _first(sorted(inner, key=lambda option: option is not type(None)), _parse, text)
    if hint is type(None):
        if text.lower() != 'none':
            raise ValueError
        return None
    if hint == FilePath:
        return file_path(text)
    if typing.get_origin(hint) is tuple:
        items = _split(text)
        _check_length(inner, items)
        return tuple(_parse(inner[0], item) for item in items)
    if hint is bool:
        if text.lower() not in TRUTH:
            raise ValueError
        return TRUTH[text.lower()]
    return hint(text)


def _first(options: Collection[Any], read: Callable[[Any, Any], Any], value: Any) -> Any:
    """The value as the first of the types that it can have; of numbers and texts, '007' is a text."""
    for option in options:
        with contextlib.suppress(ValueError):
            result = read(option, value)
            if str not in options or str(result) == str(value):
                return result
    raise ValueError


def _split(text: str) -> list[str]:
    """The items of '16,16', 'cat, golden retriever', or what Python writes: (16, 16), ['cat'], (16,), ()."""
    bare = re.fullmatch(r'\((.*)\)|\[(.*)\]|(.*)', text.strip(), re.DOTALL)
    items = next(group for group in bare.groups() if group is not None).split(',')
    if not items[-1].strip():
        items.pop()
    return [item.strip().strip('\'"') for item in items]


def _check_length(inner: tuple[Any, ...], items: Collection[Any]) -> None:
    if inner[-1] is not Ellipsis and len(inner) != len(items):
        raise ValueError


def _allowed(hint: Any, given: str) -> str:
    """What a value of the type is, in words that suit what was given."""
    cls, inner = not_none(hint), typing.get_args(not_none(hint))
    none = '' if cls is hint else ' or None'
    if inner == (int, int):  # every pair of the settings is an image size
        side = given if given.isdecimal() else 16
        return f'give height and width: {side},{side}{none and ", or None"}'
    if typing.get_origin(cls) is tuple:
        return f'it must be {PLURALS[inner[0]]} separated by commas{none}'
    return f'it must be {WORDS[cls]}{none}'


def _mapping(section: Any, cls: type, where: str) -> Mapping[str, Any]:
    if section is None:
        raise UserError(f'{where} is missing; it must be a section of settings, as with_defaults(…) makes it')
    if not isinstance(section, Mapping):
        raise UserError(f'{where} is {section!r}; it must be a section of settings ({cls.__name__})')
    return section


def _require(section: Mapping[str, Any], cls: type, where: str, derived: Mapping[str, Any]) -> None:
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in section and field.name not in derived:
            raise UserError(f'{where}.{field.name} is missing; it has no default')
