"""What checks of settings have in common. A check names the key; `in_section` adds where it stands."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from diffusion_jax.errors import UserError


def one_of(key: str, value: Any, allowed: Collection[Any]) -> None:
    if value not in allowed:
        raise UserError(f'{key} is {value!r}; it must be one of {", ".join(map(repr, allowed))}')


def between(key: str, value: float, least: float, below: float = float('inf')) -> None:
    if not least <= value < below:
        limit = '' if below == float('inf') else f' and below {below}'
        raise UserError(f'{key} is {value}; it must be at least {least}{limit}')


def in_section(section: str, check: Callable[..., None], *values: Any) -> None:
    """Runs a check of a section's settings; its errors name the key as config.<section>.<key>."""
    try:
        check(*values)
    except UserError as error:
        raise UserError(f'config.{section}.{error}') from error
