"""Read dataclasses from nested mappings, and their fields from texts of a command line.

The type of each setting is the annotation of its field; its meaning is in the dataclass's docstring.
"""

import contextlib
import dataclasses
import difflib
import inspect
import os
import re
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from diffusion_jax.errors import UserError

Section = TypeVar('Section')
# A setting that names a file or a folder (some also allow words).
FilePath = Annotated[str, 'path']

FROM_TEXT: dict[Any, dict[str, Any]] = {
    bool: dict.fromkeys(('true', 't', 'yes', '1'), True) | dict.fromkeys(('false', 'f', 'no', '0'), False),
    type(None): {'none': None},
}
WORDS: dict[Any, str] = {
    bool: 'true or false',
    int: 'an integer',
    float: 'a number',
    str: 'a text in quotes',
    FilePath: 'a path in quotes',
    tuple[int, int]: 'height and width, such as 16,16',
    tuple[int, ...]: 'integers separated by commas',
    tuple[float, ...]: 'numbers separated by commas',
    tuple[str, ...]: 'texts separated by commas',
    tuple[int | str, ...]: 'integers or texts separated by commas',
}
UNIONS = (types.UnionType, typing.Union)
REJECTED = (ValueError, OverflowError, KeyError)
LONGEST = 80  # characters of a value in a message


def read_section(
    cls: type[Section], section: Any, where: str, derived: Mapping[str, Any] | None = None
) -> Section:
    """A dataclass from a mapping of exactly its fields; those with defaults are optional.

    where: the name of the section in messages, such as 'config.unet'.
    derived: fields that follow from other sections; naming one in this section is an error.
    """
    if isinstance(section, cls):
        return section
    if not isinstance(section, Mapping):
        problem = 'is missing' if section is None else f'got {section!r}'
        raise UserError(where, problem, 'must be a section of settings, as with_defaults(…) makes it')
    derived = derived or {}
    all_fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # no name says that cls is a dataclass
    fields = {field.name: field for field in all_fields if field.name not in derived}
    hints = types_of(cls)
    values = {}
    for key, value in section.items():
        if key not in fields:
            meant = nearest(key, fields)
            remedy = f'did you mean {meant[0]}?' if meant else f'known are {", ".join(fields)}'
            remedy = 'it follows from other sections' if key in derived else remedy
            raise UserError(f'{where}.{key}', 'no such setting', remedy)
        values[key] = read_value(hints[key], value, f'{where}.{key}')
    for key, field in fields.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f'{where}.{key}', 'is missing', 'it has no default')
    return cls(**values, **derived)


def read_value(hint: Any, value: Any, where: str) -> Any:
    """A value of the annotated type. Integers are accepted as floats and lists as tuples, nothing else."""
    cls = not_none(hint)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and (value is not None or cls is hint):
        return read_section(cls, value, where)
    return _convert(hint, value, where)


def read_text(hint: Any, text: str | None, where: str) -> Any:
    """The value of the annotated type that a user typed; None is a flag without a value, which is 'true'."""
    if text is None and hint is not bool:
        raise UserError(where, 'has no value', 'give one after =')
    return _convert(hint, 'true' if text is None else text, where, from_text=True)


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
    close = difflib.get_close_matches(last, {key for _, _, key in split.values()}, 1, 0.75)
    found = [each for each in known if split[each][2] in close or (not close and each.endswith(f'_{last}'))]
    sections = difflib.get_close_matches(section, {split[each][0] for each in found}, 1)
    return [each for each in found if split[each][0] in sections] or found


def meanings(cls: type) -> dict[str, str]:
    """Descriptions of fields, from the sections `Attributes:` in docstrings of a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__dict__.get('__doc__') or '')
        attributes = inspect.cleandoc('\n' + doc.partition('Attributes:\n')[2].partition('\n\n')[0])
        for names, text in re.findall(r'^(\w[\w, ]*): (.*(?:\n .*)*)', attributes, re.MULTILINE):
            found |= dict.fromkeys(names.split(', '), ' '.join(text.split()))
    return found


def _convert(hint: Any, value: Any, where: str, *, from_text: bool = False) -> Any:
    try:
        return _read(hint, value, from_text)
    except REJECTED as error:
        shown = repr(value) if len(repr(value)) <= LONGEST else f'{repr(value)[:LONGEST]} …'
        cls = not_none(hint)
        remedy = f'must be {WORDS[cls]}{"" if cls is hint else " or None"}'
        raise UserError(where, f'got {shown}', remedy) from error


def _read(hint: Any, value: Any, from_text: bool) -> Any:
    """The value, of a file or a text, as the type; an error of `REJECTED` if it is of another one."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in UNIONS:
        for option in sorted(inner, key=lambda option: option is not type(None)):
            with contextlib.suppress(*REJECTED):
                result = _read(option, value, from_text)
                if str not in inner or str(result) == str(value):  # '007' is a text
                    return result
        raise ValueError
    if hint == FilePath and isinstance(value, (str, os.PathLike)):
        return file_path(value)
    if typing.get_origin(hint) is tuple:
        items = _split(value) if from_text else value
        if not isinstance(items, (tuple, list)) or (inner[-1] is not ... and len(inner) != len(items)):
            raise ValueError
        return tuple(_read(inner[0], item, from_text) for item in items)
    if type(value) is hint:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if from_text:
        return FROM_TEXT[hint][value.lower()] if hint in FROM_TEXT else hint(value)
    raise ValueError


def _split(text: str) -> list[str]:
    """The items of '16,16', 'cat, golden retriever', or what Python writes: (16, 16), ['cat'], (16,), ()."""
    text = text.strip()
    if text[:1] + text[-1:] in ('()', '[]'):
        text = text[1:-1]
    items = [item.strip().strip('\'"') for item in text.split(',')]
    return items if items[-1] else items[:-1]
