"""Samplers, guidances and recipes as data: their structure selects a program, their numbers are traced.

A part is a frozen dataclass and a pytree. Its numbers are leaves, which a jitted function may take as
arguments; fields that are `static` are structure.

    class Euler(Sampler):
        strength: Number = option(1.0, most=2.0)
"""

import dataclasses
from typing import Any, ClassVar, dataclass_transform

import jax
from jax.tree_util import GetAttrKey

LARGEST = 3.4028234663852886e38  # of float32

# A number that is traced: [], or [B] where the option says so.
Number = jax.Array | float


def option(
    default: float, least: float = 0, most: float = LARGEST, *, whole: bool = False, per_image: bool = False
) -> Any:
    """A field that is a number, traced.

    Args:
      least, most: the allowed range, checked when a caller's values are read, not here.
      whole: it is an integer.
      per_image: it may be one number for each image, [B].
    """
    limits = {'least': least, 'most': most, 'whole': whole, 'per_image': per_image}
    return dataclasses.field(default=default, metadata=limits)


def rows(ndim: int | None = None) -> Any:
    """A field that is an array [1, …] or [B, …], one row for all images or one for each, traced.

    ndim: the number of its axes; callers may omit the first.
    """
    return dataclasses.field(metadata={'rows': ndim})


def static(*, values: Any = None, **kwargs: Any) -> Any:
    """A field that is structure: its value is hashable and selects a program.

    values: the texts or booleans that it may be, the least integer, or the type `str` or `tuple` for any text
      or any tuple of texts; then a text may name it like an option.
    """
    return dataclasses.field(metadata={'static': True, 'values': values}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(option, rows, static))
class Part:
    """Makes each class that inherits from it a frozen dataclass and a pytree."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True)(cls)
        fields = dataclasses.fields(cls)
        data = [field.name for field in fields if 'static' not in field.metadata]
        meta = [field.name for field in fields if 'static' in field.metadata]

        # Not `register_dataclass`: JAX (0.11.2 and before) takes the structures of two dataclasses with the
        # same fields for equal, and can run the program of one sampler for another. Here classes count.
        def structure(part: Any) -> tuple[Any, ...]:
            return cls, *(getattr(part, name) for name in meta)

        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda part: ([(GetAttrKey(name), getattr(part, name)) for name in data], structure(part)),
            lambda structure, values: cls(
                **dict(zip(meta, structure[1:], strict=True)), **dict(zip(data, values, strict=True))
            ),
            lambda part: ([getattr(part, name) for name in data], structure(part)),
        )


def options(part: type[Part] | Part) -> dict[str, dataclasses.Field]:
    """The fields of a part that are numbers, by name."""
    return {field.name: field for field in dataclasses.fields(part) if 'least' in field.metadata}


def choices(part: type[Part] | Part) -> dict[str, dataclasses.Field]:
    """The fields of a part that are structure and that a text may name."""
    return {
        field.name: field for field in dataclasses.fields(part) if field.metadata.get('values') is not None
    }
