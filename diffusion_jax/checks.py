"""Checks of single values of settings and arguments, which raise UserError."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError

LARGEST = 3.4028234663852886e38  # of float32, the type in which settings are used
INT32 = 2**31  # counts below it are int32 on the device


def one_of(key: str, value: Any, allowed: Collection[Any]) -> None:
    if value not in allowed:
        raise UserError(key, f'got {value!r}', f'must be one of {", ".join(map(repr, allowed))}')


def between(
    key: str, value: float, least: float, below: float | None = None, *, most: float = LARGEST
) -> None:
    """UserError unless least ≤ value < below and value ≤ most; NaN is in no range."""
    if least <= value <= most and (below is None or value < below):
        return
    limit = f' and at most {most:.5g}' if most != LARGEST or value > LARGEST else ''
    limit = limit if below is None else f' and below {below}'
    raise UserError(key, f'got {value}', f'must be at least {least}{limit}')


def not_finite(array: np.ndarray) -> str:
    """The first value that float32 cannot hold and its index, such as 'nan at [0, 3]', or ''."""
    with np.errstate(over='ignore'):
        finite = np.isfinite(array.astype(np.float32, copy=False))
    if finite.all():
        return ''
    index = np.unravel_index(np.argmin(finite), array.shape)
    return f'{array[index]} at {list(map(int, index))}'


def in_section(section: str, check: Callable[..., Any], *values: Any) -> Any:
    """What a check of a section's settings returns; its errors name them as config.<section>.<key>."""
    try:
        return check(*values)
    except UserError as error:
        raise UserError(f'config.{section}.{error.where}', error.problem, error.remedy) from error


@contextlib.contextmanager
def given_by(setting: str) -> Iterator[None]:
    """Errors about the file or folder that the block opens also name the setting with its path."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{setting}: {error.where}', error.problem, error.remedy) from error
