"""Ctrl-C and SIGTERM as a question that long loops ask, so that they save before they leave."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar('Result')


class Interrupted(Exception):
    """Work was saved and left unfinished. The message says how far it got."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM has come.

    A SIGINT after that ends the program at once: what is on disk is whole at any moment. Another SIGTERM does
    not: schedulers may repeat theirs while a checkpoint is written.
    """
    received = []

    def remember(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            os._exit(130)  # an exception would wait for what JAX computes
        received.append(number)
        print(
            '\nstopping as soon as what is under way is saved; Ctrl-C now ends it at once …',
            file=sys.stderr,
            flush=True,
        )

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def attentive(call: Callable[[], Result]) -> Result:
    """Runs a call that may take minutes inside JAX in another thread, so that this one can hear signals."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result()
