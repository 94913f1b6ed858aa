"""Out of memory, on a device or on the host, as an error that a user can act on."""

import contextlib
import re
from collections.abc import Iterator

from diffusion_jax.errors import UserError

AMOUNT = re.compile(r'Used \S+ of \S+|[\d.]+ ?[KMGTPE](i?B)?\b|(?P<bytes>\d+) ?(bytes|B)\b')


class OutOfMemory(UserError):
    """Raised by the Python API; a stage replaces it with an error that names its settings."""


@contextlib.contextmanager
def out_of_memory(part: str, remedy: str, raises: type[UserError] = UserError) -> Iterator[None]:
    """Raises UserError where the block runs out of memory. When nested, the innermost one raises.

    part: what the block computes, such as 'sampling'.
    raises: OutOfMemory if an enclosing block may give a better remedy.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, OutOfMemory) else error
        if cause is None or not is_out_of_memory(cause):
            raise
        raise raises(part, describe(cause), remedy) from cause


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether NumPy, Python or JAX (on allocation or compilation) ran out of memory."""
    signs = re.search('RESOURCE_EXHAUSTED|out of memory', str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and signs is not None)


def describe(error: BaseException) -> str:
    """'out of memory', with the amount if the error's text has one."""
    amount = AMOUNT.search(str(error))
    if amount is None:
        return 'out of memory'
    size = f'{int(amount["bytes"]):,} bytes' if amount['bytes'] else amount[0]
    return f'out of memory ({size})'
