"""SIGINT, SIGTERM and SIGHUP as a flag that long loops poll, so that they can save before they exit."""

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
    """Work was saved and is not finished. The message says how much is done."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that returns whether SIGINT, SIGTERM or SIGHUP was received; always False in threads.

    SIGINT after another signal ends the program immediately: the files on disk are valid at any moment.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            os._exit(130)  # an exception would wait for what JAX computes
        received.append(number)
        say('\nstopping after the current step or batch; press Ctrl-C to exit immediately …')

    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) != signal.SIG_IGN)  # nohup ignores it
    previous = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def interruptible(call: Callable[[], Result]) -> Result:
    """Runs a call in another thread, since Python handles no signals while the main one waits for JAX."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result()
