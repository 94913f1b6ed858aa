"""Ctrl-C and SIGTERM as a question that long loops ask, so that they save before they leave."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator


class Interrupted(Exception):
    """Work was saved and left unfinished. The message says how far it got."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM has come.

    A second SIGINT ends the program at once, as Python does by default.
    """
    received = []

    def remember(number: int, frame: object) -> None:
        received.append(number)
        print('\nstopping as soon as what is under way is saved …', file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
