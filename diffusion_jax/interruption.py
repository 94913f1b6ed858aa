"""Ctrl-C, SIGTERM, a closed terminal as a question that long loops ask, to save before they leave."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from diffusion_jax.errors import say

Result = TypeVar('Result')


class Interrupted(Exception):
    """Work was saved and left unfinished. The message says how far it got."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT, SIGTERM or SIGHUP has come.

    Signals are the main thread's: in any other one the answer is always no.

    A SIGINT after that ends the program at once: what is on disk is whole at any moment. Another SIGTERM does
    not: schedulers may repeat theirs while a checkpoint is written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received = []

    def remember(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            os._exit(130)  # an exception would wait for what JAX computes
        received.append(number)
        say('\nstopping as soon as what is under way is saved; Ctrl-C now ends it at once …')

    # nohup sets SIGHUP, which a terminal sends when it is closed, to be ignored.
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) != signal.SIG_IGN)
    previous = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def interruptible(call: Callable[[], Result]) -> Result:
    """Runs a call that may take minutes inside JAX in another thread, so that this one can hear signals."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result()
