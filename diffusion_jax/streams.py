"""Output for people: a stream that is closed, full or not read changes no program and no exit code."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# TensorStore reports these for every array, in addition to the error that it raises.
ECHOES = ('Event loop is closed', 'Encountered error while reading array index')
UNUSABLE = (AttributeError, OSError, ValueError)  # a stream that is None, broken, closed


class PatientStream:
    """A text stream that drops what cannot be written, and escapes characters that its encoding lacks."""

    def __init__(self, stream: 'TextIO | PatientStream | None'):
        self._stream: Any = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(*UNUSABLE):
            encoding = getattr(self._stream, 'encoding', None) or 'utf-8'
            self._stream.write(text.encode(encoding, 'backslashreplace').decode(encoding))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(*UNUSABLE):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(*UNUSABLE):
            return self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """Makes `sys.stdout` and `sys.stderr` patient while a program runs."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # a file would get this number, and messages of native libraries
            os.open(os.devnull, os.O_RDWR)
    streams, report = (sys.stdout, sys.stderr), sys.unraisablehook
    sys.unraisablehook = lambda event: any(text in str(event.exc_value) for text in ECHOES) or report(event)
    with (
        contextlib.redirect_stdout(PatientStream(sys.stdout)),
        contextlib.redirect_stderr(PatientStream(sys.stderr)),
    ):
        try:
            yield
        finally:
            sys.unraisablehook = report
            for stream in streams:
                try:
                    stream.flush()
                except UNUSABLE:  # Python would fail to flush it at exit, and change the exit code to 120
                    with contextlib.suppress(*UNUSABLE):
                        descriptor = stream.fileno()
                        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
