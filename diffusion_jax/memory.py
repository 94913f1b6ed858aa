"""Too little memory, of a device or of the host, as an error that a user can act on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from diffusion_jax.errors import UserError


class OutOfMemory(UserError):
    """Raised to Python callers. A stage replaces it with an error that names its settings."""


@contextlib.contextmanager
def out_of_memory(part: str, remedy: str, raises: type[UserError] = UserError) -> Iterator[None]:
    """Raises UserError where the block does not fit into memory. When nested, the innermost one raises.

    Args:
        part: what is computed inside, such as 'sampling'.
        remedy: which settings to change, each with its value.
        raises: OutOfMemory where the surrounding one may know better.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, OutOfMemory) else error
        if not is_out_of_memory(cause):
            raise
        raise raises(f'{describe(cause)} in {part}; {remedy}') from cause


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether NumPy, Python or JAX (when it allocates or when it compiles) found too little memory."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)  # JaxRuntimeError is one
        and ('RESOURCE_EXHAUSTED' in text or re.search('out of memory', text, re.IGNORECASE) is not None)
    )


def describe(error: BaseException) -> str:
    """'out of memory', and how much was asked for where the error says it."""
    text = str(error)
    size = r'([\d.]+) ?([KMGTPE])(?:i?B)?\b'
    if used := re.search(rf'Used {size} of {size}', text):
        return f'out of memory ({_binary(*used.group(1, 2))} needed, {_binary(*used.group(3, 4))} available)'
    if number := re.search(r'(\d+) ?(?:bytes|B)\b', text):
        return f'out of memory ({_decimal(int(number[1]))} asked for)'
    if amount := re.search(rf'(?:allocate|reserve|request for|allocating) {size}', text):
        return f'out of memory ({_binary(*amount.groups())} asked for)'
    return 'out of memory'


def _binary(value: str, unit: str) -> str:
    return f'{value.rstrip(".")} {unit}iB'


def _decimal(number: int) -> str:
    """118189471424 → '118 GB'."""
    units = ('bytes', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')
    power = min((len(str(number)) - 1) // 3, len(units) - 1)
    return f'{number / 1000**power:.3g} {units[power]}'
