"""The errors that a user is meant to read, in one line and without a traceback (see `exits`)."""

import os
import re
import sys
from typing import Any

from diffusion_jax.streams import PatientStream


class UserError(Exception):
    """Bad input; exit code 2. Its text is one line, `where: problem; remedy`.

    Attributes:
        where: the setting, file or argument that is wrong, such as 'config.train.batch_size'.
        problem: what is wrong with it, with the value that was found.
        remedy: what is allowed, or what to do; empty if `problem` makes it obvious.
    """

    def __init__(self, where: str, problem: str, remedy: str = ''):
        self.where, self.problem, self.remedy = where, problem, remedy
        super().__init__(f'{where}: {problem}' + (f'; {remedy}' if remedy else ''))

    def __reduce__(self) -> tuple[Any, ...]:  # to be pickled and copied: args is the text alone
        return type(self).__new__, (type(self), *self.args), vars(self)


def say(text: str) -> None:
    """Prints a line to stderr; never raises."""
    print(text, file=PatientStream(sys.stderr), flush=True)


def reason(error: BaseException) -> str:
    """One short line: what the operating system or a library says; the error's class if it says nothing."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = re.sub(r' \[(tensorstore|source).*', '', lines[0]) if lines else type(error).__name__
    if 'allow_pickle' in line:  # NumPy's message for any unknown file, with unsafe advice
        return 'not an array of plain numbers'
    return line if len(line) <= 200 else f'{line[:120]} … {line[-60:]}'
