"""The errors that a user is meant to read: `main` says them without a traceback."""

import contextlib
import sys


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong, where, and what to do; exit code 2."""


class CheckFailed(Exception):
    """All went well, but the result is not as good as the config demands; exit code 1."""


def say(text: str) -> None:
    """A line on stderr; nothing where its reader has gone away, such as a terminal that was closed."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
