"""From nested mappings to dataclasses: unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from diffusion_jax.errors import UserError


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
            origin = 'it follows from other sections' if key in derived else f'known are {", ".join(own)}'
            raise UserError(f'{where}.{key}: no such setting; {origin}')
    _require(section, cls, where, derived)
    hints = typing.get_type_hints(cls)
    values = {key: read_value(hints[key], value, f'{where}.{key}') for key, value in section.items()}
    return cls(**values, **derived)


def read_value(hint: Any, value: Any, where: str) -> Any:
    """A value of the annotated type. Whole numbers serve as floats and lists as tuples, nothing else."""
    if dataclasses.is_dataclass(hint):
        return read_section(hint, value, where)
    if isinstance(hint, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return read_value(not_none(hint), value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, (tuple, list)):
        inner = typing.get_args(hint)
        if inner[-1] is Ellipsis or len(inner) == len(value):
            return tuple(read_value(inner[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise UserError(f'{where} has {len(str(value))} digits; it is too large for a float') from error
    if type(value) is hint:
        return value
    name = getattr(hint, '__name__', str(hint)) if typing.get_origin(hint) is None else str(hint)
    raise UserError(f'{where} is {value!r} ({type(value).__name__}); it must be of type {name}')


def _mapping(section: Any, cls: type, where: str) -> Mapping[str, Any]:
    if not isinstance(section, Mapping):
        raise UserError(f'{where} is {section!r}; it must be a section of settings ({cls.__name__})')
    return section


def _require(section: Mapping[str, Any], cls: type, where: str, derived: Mapping[str, Any]) -> None:
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in section and field.name not in derived:
            raise UserError(f'{where}.{field.name} is missing; it has no default')


def not_none(hint: Any) -> Any:
    """The type that a value of `… | None` has where there is one; any other type as it is."""
    if not isinstance(hint, types.UnionType):
        return hint
    return next(option for option in typing.get_args(hint) if option is not type(None))
