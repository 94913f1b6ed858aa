"""The errors that a user is meant to read, in one line and without a traceback (see `exits`)."""

import os
import re
import sys

from diffusion_jax.streams import PatientStream


class UserError(Exception):
    """Bad input; exit code 2. Its text is one line, `where: problem; remedy`.

    where: the setting, file, argument or part that is wrong, such as 'train.batch_size'.
    problem: what is wrong with it, with the value that was found.
    remedy: what is allowed, or what to do; empty where `problem` makes it obvious.
    """

    def __init__(self, where: str, problem: str = '', remedy: str = ''):
        self.where, self.problem, self.remedy = where, problem, remedy
        super().__init__('; '.join(filter(None, [': '.join(filter(None, [where, problem])), remedy])))


class CheckFailed(Exception):
    """All went well, but the result is not as good as the config demands; exit code 1."""


def say(text: str) -> None:
    """A line on stderr, if that can be written."""
    print(text, file=PatientStream(sys.stderr), flush=True)


def reason(error: BaseException) -> str:
    """What an error of the system or a library says, in one short line; its class where it says nothing."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = re.sub(r' \[(tensorstore|source).*', '', lines[0]) if lines else type(error).__name__
    if 'allow_pickle' in line:  # what NumPy takes any file for that it does not know, with unsafe advice
        return 'it holds no plain numbers'
    return line if len(line) <= 200 else f'{line[:120]} … {line[-60:]}'
