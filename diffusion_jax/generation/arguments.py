"""Checks of the arguments of public functions. An argument is cast only where no value changes.

(Rounding to float32 aside: a float64 array is accepted where float32 holds its values.)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.checks import INT32, LARGEST, between, not_finite
from diffusion_jax.diffusion.parts import Part, options
from diffusion_jax.diffusion.recipe import Recipe, innermost
from diffusion_jax.errors import UserError


class NotFinite(UserError):
    """What was computed for some of the images is not finite, although all arguments are."""


def whole_number(name: str, value: Any, least: int = 0, below: int = INT32) -> int:
    """A Python int from any integer. UserError where it is none, or out of range."""
    array = _as_array(value)
    if array is None or array.shape != () or array.dtype.kind not in 'iu':
        raise UserError(f'{name} is {_text(value)}; it must be a whole number from {least} to {below - 1}')
    between(name, int(array), least, below)
    return int(array)


def real_number(name: str, value: Any, least: float, most: float = LARGEST) -> float:
    """A Python float from any real number. UserError where it is none, or out of range."""
    array = _as_array(value)
    if array is None or array.shape != () or not _is_real(array):
        raise UserError(f'{name} is {_text(value)}; it must be a number')
    between(name, float(array), least, most=most)
    return float(array)


def check_positive(name: str, value: Any) -> None:
    """UserError unless it is a number, or an array of them, above 0 and finite."""
    array = _as_array(value)
    if array is None or not _holds(array, np.float32) or not (array > 0).all():
        raise UserError(f'{name} is {_text(value)}; every number must be above 0')


def one_for_each(name: str, value: Any, num_images: int, dtype: type) -> np.ndarray:
    """A number for every image, [num_images], from one for all or one for each.

    Raises:
        UserError: it is neither, or `dtype` (int32 or float32) does not hold it.
    """
    array = _as_array(value)
    if array is None or array.shape not in ((), (num_images,)) or not _holds(array, dtype):
        kind = 'an integer' if np.issubdtype(dtype, np.integer) else 'a number'
        raise UserError(
            f'{name} is {_text(value)}; give one number, or one for each of the {num_images} images, each '
            f'{kind} that {np.dtype(dtype)} holds'
        )
    return np.broadcast_to(array.astype(dtype), (num_images,))


def check_array(name: str, array: Any, shape: Sequence[int | str], dtype: type) -> np.ndarray:
    """The argument as an array of a shape and of `dtype`: uint8, int32 or float32.

    Args:
        shape: a text stands for any length that is not 0.

    Raises:
        UserError: it has another shape, or values that `dtype` does not hold. Neither bool nor float is taken
            for an integer, nor an integer for a float.
    """
    found = _as_array(array)
    expected = f'it must be {np.dtype(dtype)} {str(tuple(shape)).replace(chr(39), "")}'
    if found is None:
        raise UserError(f'{name} is {_text(array)}; {expected}')
    floating = np.issubdtype(dtype, np.floating)
    if not _has_shape(found, shape) or (
        not _is_floating(found) if floating else found.dtype.kind not in 'iu'
    ):
        raise UserError(f'{name} is {found.dtype} {found.shape}; {expected}')
    if floating and not _holds(found, dtype):
        raise UserError(f'{name} is {not_finite(found)}; every value must be finite in float32')
    if not _holds(found, dtype):
        values = f'with values from {found.min()} to {found.max()}'
        raise UserError(f'{name} is {found.dtype} {found.shape} {values}; {expected}')
    return found.astype(dtype, copy=False)


def check_function(name: str, function: Any, of: str) -> None:
    """UserError unless it is a function that can be a static argument of a compiled program."""
    if not callable(function) or isinstance(function, type) or not isinstance(function, Hashable):
        raise UserError(f'{name} is {_text(function)}; give a function of {of} that is hashable')


def num_rows(name: str, rows: Any) -> int:
    """How many images an argument has. UserError where it has none."""
    array = _as_array(rows)
    if array is None or not array.shape or not len(array):
        raise UserError(f'{name} is {_text(rows)}; it must be an array of at least one image')
    return len(array)


def check_samples(finite: np.ndarray, first: int, recipe: Recipe) -> None:
    """NotFinite, which names the images and what to lower, unless all are finite.

    finite: bool [B], whether each of the images first, first + 1, … is.
    """
    wrong = np.flatnonzero(~finite)
    if not len(wrong):
        return
    how = f'{describe(recipe.sampler)}, without guidance'
    remedy = 'the network itself gives such values, use other weights'
    if recipe.guidance:
        guided = ' + '.join(describe(innermost(guidance), wrong[0]) for guidance in recipe.guidance)
        how = f'{describe(recipe.sampler)}, {guided}'
        remedy = 'lower scale, at which float32 overflows'
    raise NotFinite(f'{_listed(first + wrong, len(finite))} are not finite ({how}); {remedy}')


def describe(part: Part, image: int = 0) -> str:
    """A part as text, with the numbers of one image: 'DDIM(eta 0.5)'."""
    numbers = {name: np.ravel(getattr(part, name)) for name in options(part)}
    shown = ', '.join(f'{name} {values[min(image, len(values) - 1)]:g}' for name, values in numbers.items())
    return f'{type(part).__name__}({shown})' if shown else type(part).__name__


def check_finite_rows(what: str, rows: np.ndarray, index: np.ndarray) -> None:
    """NotFinite, which names the images by their index [B], unless all of `rows` [B, …] is finite."""
    wrong = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
    if len(wrong):
        raise NotFinite(
            f'{what} of {_listed(index[wrong], len(rows))} is not finite; the network itself gives such '
            'values, use other weights'
        )


def _listed(indices: np.ndarray, total: int) -> str:
    shown = ', '.join(map(str, indices[:5])) + (', …' if len(indices) > 5 else '')
    return f'{len(indices)} of {total} images (index {shown})'


def _has_shape(array: np.ndarray, shape: Sequence[int | str]) -> bool:
    if array.ndim != len(shape) or not array.size:
        return False
    return all(
        isinstance(wanted, str) or length == wanted for length, wanted in zip(array.shape, shape, strict=True)
    )


def _as_array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return None


def _is_floating(array: np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)  # bfloat16 too


def _is_real(array: np.ndarray) -> bool:
    return array.dtype.kind in 'iu' or _is_floating(array)


def _holds(array: np.ndarray, dtype: type) -> bool:
    """Whether all values of an array are those of a dtype, but for rounding to float32."""
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over='ignore'):
            return _is_real(array) and bool(np.isfinite(array.astype(dtype)).all())
    limits = np.iinfo(dtype)
    return array.dtype.kind in 'iu' and bool((limits.min <= array.min()) & (array.max() <= limits.max))


def _text(value: Any) -> str:
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else f'{text[:80]} …'
