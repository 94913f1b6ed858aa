"""Checks of numbers and arrays that callers give. A cast changes no value, except that floats are rounded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.checks import INT32, between, one_of
from diffusion_jax.diffusion.parts import Part, choices, options
from diffusion_jax.diffusion.process import Level
from diffusion_jax.errors import UserError


class NotFinite(UserError):
    """Results for some of the images are not finite, although all arguments are."""


def whole_number(name: str, value: Any, least: int = 0, below: int = INT32) -> int:
    """An integer of any type as an int. UserError if it is none, or out of range."""
    number = value if type(value) is int else int(check_array(name, value, (), np.int64))
    between(name, number, least, below)
    return number


def one_for_each(name: str, value: Any, num_images: int, dtype: type) -> np.ndarray:
    """A number for every image, [num_images], from one for all or one for each."""
    array = _cast(value, dtype)
    if array is None or array.shape not in ((), (num_images,)):
        remedy = f'must be {_kind(dtype)}, or {num_images} of them, one for each image'
        raise UserError(name, f'got {shown(value)}', remedy)
    return np.broadcast_to(array, (num_images,))


def check_array(name: str, value: Any, shape: Sequence[int | str], dtype: type) -> np.ndarray:
    """The value as an array. UserError if it has another shape, or values that the dtype does not hold.

    Args:
        shape: a text stands for any length but 0.
        dtype: an integer type holds integers in its range, a floating one all numbers that are finite in it.
    """
    array = _cast(value, dtype)
    if array is None or not _has_shape(array, shape):
        expected = f'{np.dtype(dtype)} {str(tuple(shape)).replace(chr(39), "")}' if shape else _kind(dtype)
        raise UserError(name, f'got {shown(value)}', f'must be {expected}')
    return array


def number(name: str, value: Any, limits: Mapping[str, Any], num_images: int | None = None) -> np.ndarray:
    """An option of a part, float32 or int32; [], or [num_images] if it may differ between images."""
    dtype = np.int32 if limits['whole'] else np.float64
    if limits['per_image'] and num_images is not None:
        array = one_for_each(name, value, num_images, dtype)
    else:
        array = check_array(name, value, (), dtype)
    for extreme in (array.min(), array.max()):
        between(name, extreme.item(), limits['least'], most=limits['most'])
    return array if limits['whole'] else array.astype(np.float32)


def choice(name: str, value: Any, values: Any) -> Any:
    """A field of a part that is structure, checked; for `values` see `static`."""
    if isinstance(values, int):
        return whole_number(name, value, values)
    if isinstance(values, type):
        texts = value if values is tuple else (value,)
        if not isinstance(value, values) or not all(isinstance(text, str) for text in texts):
            kind = 'a text' if values is str else 'a tuple of texts'
            raise UserError(name, f'got {shown(value)}', f'must be {kind}')
        return value
    one_of(name, value, values)
    return value


def read_choice(name: str, text: str, values: Any) -> Any:
    """The value of such a field from a text, where the texts of a tuple are separated by spaces."""
    value: Any = tuple(text.split()) if values is tuple else text
    if isinstance(values, tuple):
        value = {str(known): known for known in values}.get(text, text)
    return choice(name, int(text) if isinstance(values, int) and text.isdecimal() else value, values)


def first_step(levels: Level, start: Any) -> int:
    """The steps before the first level with σ at most `start`. UserError if there is none."""
    start, sigma = check_array('start', start, (), np.float64), np.asarray(levels.edm_sigma)
    reached = sigma <= start * (1 + 1e-5)  # levels are float32
    if not reached.any():
        raise UserError('start', f'got {start:g}', f'must be at least {sigma.min():.3g}, the lowest σ')
    return int(np.argmax(reached))


def traced(part: Any, num_images: int) -> Any:
    """A part whose options are arrays of one dtype and shape, so that other numbers compile nothing."""
    if isinstance(part, tuple):
        return tuple(traced(each, num_images) for each in part)
    if not isinstance(part, Part):
        return part
    values, numbers, structure = {}, options(part), choices(part)
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f'{type(part).__name__}.{field.name}'
        if field.name in numbers:
            values[field.name] = number(name, value, field.metadata, num_images)
        elif 'rows' in field.metadata:
            values[field.name] = _rows(name, value, field.metadata['rows'])
        elif field.name in structure:
            values[field.name] = choice(name, value, field.metadata['values'])
        else:
            values[field.name] = traced(value, num_images)
    return dataclasses.replace(part, **values)


def check_finite(what: str, finite: np.ndarray, index: np.ndarray, remedy: str) -> None:
    """NotFinite, which names the images by their index [B], unless `finite`, bool [B], is all True."""
    if finite.all():
        return
    wrong = index[~finite]
    shown = ', '.join(map(str, wrong[:5])) + (', …' if len(wrong) > 5 else '')
    raise NotFinite(what, f'{len(wrong)} of {len(finite)} images (index {shown}) are not finite', remedy)


def _rows(name: str, value: Any, ndim: int | None) -> np.ndarray:
    """An array of a part, float32 with `ndim` axes; the first may be missing, and bool is 0 and 1."""
    is_bool = getattr(value, 'dtype', None) in (np.bool_,)
    array = _cast(np.asarray(value, np.uint8) if is_bool else value, np.float32)
    if array is None:
        raise UserError(name, f'got {shown(value)}', 'must be an array of finite numbers')
    array = array[None] if ndim is not None and array.ndim == ndim - 1 else array
    if ndim is not None and array.ndim != ndim:
        raise UserError(name, f'has the shape {array.shape}', f'must have {ndim - 1} or {ndim} axes')
    return array


def _cast(value: Any, dtype: type) -> np.ndarray | None:
    """The value as an array, None if the dtype does not hold it; bool is no number, float no integer."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    integers = array.dtype.kind in 'iu'
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        held = integers and (not array.size or (limits.min <= array.min() and array.max() <= limits.max))
        return array.astype(dtype, copy=False) if held else None
    if not integers and not jnp.issubdtype(array.dtype, jnp.floating):  # which bfloat16 is
        return None
    with np.errstate(over='ignore'):
        array = array.astype(dtype, copy=False)
    return array if np.isfinite(array).all() else None


def _has_shape(array: np.ndarray, shape: Sequence[int | str]) -> bool:
    if array.ndim != len(shape) or not array.size:
        return False
    return all(isinstance(n, str) or length == n for length, n in zip(array.shape, shape, strict=True))


def _kind(dtype: type) -> str:
    return 'an integer' if np.issubdtype(dtype, np.integer) else 'a finite number'


def shown(value: Any) -> str:
    """A value in a message, without the numbers of parts and large arrays."""
    if isinstance(value, Part):
        return type(value).__name__
    if getattr(value, 'size', 0) > 8:
        return f'{value.dtype} {value.shape} with values from {value.min()} to {value.max()}'
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else f'{text[:80]} …'
