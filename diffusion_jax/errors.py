"""The errors that a user is meant to read: `main` prints them without a traceback."""


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong, where, and what to do; exit code 2."""


class CheckFailed(Exception):
    """All went well, but the result is not as good as the config demands; exit code 1."""
