"""Output to people: whatever their streams are, no program stops or changes its exit code because of them."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# What a stream cannot encode is replaced by characters that look alike, or else by an escape such as \xe9.
LOOKALIKES = {
    '█': '#', '·': '.', '…': '...', '×': 'x', '±': '+-', '−': '-', '–': '-', '≤': '<=', '≥': '>=',
    '≠': '!=', '²': '^2', 'ᾱ': 'alpha_bar', 'β': 'beta', 'η': 'eta', 'σ': 'sigma', 'Σ': 'Sigma', 'μ': 'mu',
}  # fmt: skip


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    escaped = (LOOKALIKES.get(c) or c.encode('ascii', 'backslashreplace').decode() for c in text)
    return ''.join(escaped), error.end


codecs.register_error('diffusion_jax.lookalikes', _replace)


def _encodable(text: str, encoding: str) -> str:
    return text.encode(encoding, 'diffusion_jax.lookalikes').decode(encoding)


class PatientStream:
    """A text stream for `print` and `logging` that never raises: what cannot be written is dropped.

    The stream behind it may be None (a program without a console), closed, full, a pipe that nobody reads,
    without `isatty` or `flush`, or of an encoding that does not know every character.
    """

    def __init__(self, stream: TextIO | PatientStream | None):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            try:
                self._stream.write(_encodable(text, getattr(self._stream, 'encoding', None) or 'utf-8'))
            except UnicodeEncodeError:
                self._stream.write(_encodable(text, 'ascii'))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """Makes `sys.stdout` and `sys.stderr` patient for as long as a program runs.

    Descriptors 0 to 2 that were closed are opened: files of the program would get these numbers, and native
    libraries would write their messages into them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    try:
        with (
            contextlib.redirect_stdout(PatientStream(sys.stdout)),
            contextlib.redirect_stderr(PatientStream(sys.stderr)),
        ):
            yield
    finally:
        for stream in before:
            _flush_or_discard(stream)


def _flush_or_discard(stream: TextIO | None) -> None:
    """Python would fail to flush a broken stream once more when it exits, and change the exit code to 120."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    except (AttributeError, ValueError):
        pass  # none, or closed
