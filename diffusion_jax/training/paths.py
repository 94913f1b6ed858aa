"""Which paths the libraries that store checkpoints can handle."""

from __future__ import annotations

from pathlib import Path

from diffusion_jax.errors import UserError

# TensorStore takes a backslash for a slash; etils takes 'gs:/' for a bucket and '**' for a recursive pattern.
UNREADABLE = ('\\', 'gs:/', '**')
# Orbax finds what hosts wrote by a glob pattern that begins with the path: it would match nothing, or other
# folders.
UNWRITABLE = ('*', '?', '[')


def check_path(path: str | Path, *, write: bool = False) -> None:
    """UserError, which names the path and the part, where checkpoints cannot be read from a path, or written.

    Symbolic links are not followed: a link of another name serves.

    Args:
        write: checkpoints will be written there; then more characters are refused.
    """
    text = str(Path(path).absolute())
    wrong = [repr(part) for part in UNREADABLE + UNWRITABLE * write if part in text]
    if text.encode(errors='replace').decode() != text:
        wrong.append('bytes that are not UTF-8')
    if wrong:
        to = 'written to' if write else 'read from'
        raise UserError(
            f'{text!r}: the path has {wrong[0]}, so that no checkpoint can be {to} it; choose another path, '
            'rename the folder, or give a symbolic link to it'
        )
