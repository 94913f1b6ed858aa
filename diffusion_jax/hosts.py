"""Several hosts as one run: how they connect, agree and end.

A host is one process of `jax.distributed`. All get the same command; the first is the coordinator, which the
others connect to.
"""

import contextlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError, reason, say

SHUTDOWN_SECONDS = 30.0


@dataclass(frozen=True)
class Hosts:
    """How a run finds its hosts.

    Attributes:
        coordinator: HOST:PORT of the first host; None if JAX detects it, and the next two.
        num_hosts, host: the number of hosts, and which of them this is.
        initialization_timeout: seconds that the hosts wait for each other at the start.
        heartbeat_timeout: seconds of silence after which a host is dead, which ends the others.
    """

    coordinator: str | None
    num_hosts: int | None
    host: int | None
    initialization_timeout: int
    heartbeat_timeout: int


def connect(hosts: Hosts) -> None:
    """Makes the devices of all hosts known to each; must be called before JAX is asked for devices.

    Ends the process with exit code 1 if the hosts do not connect in time. Raises UserError if no cluster was
    detected, or JAX finds no devices.
    """
    seconds = hosts.initialization_timeout
    this = 'one that a cluster started'
    if hosts.coordinator:
        this = f'host {hosts.host} of {hosts.num_hosts}, coordinator {hosts.coordinator}'
    say(f'waiting up to {seconds} s for all hosts (this is {this}) …')
    late = (
        f'error: not all hosts connected within {seconds} s (this is {this}); start the same command on '
        'each, where it can reach the port of the coordinator'
    )
    try:
        # JAX's own timeout ends the process without a message that a user could act on: make it later.
        with _deadline(seconds, 1, late):
            jax.distributed.initialize(
                hosts.coordinator,
                hosts.num_hosts,
                hosts.host,
                initialization_timeout=seconds + 10,
                heartbeat_timeout_seconds=hosts.heartbeat_timeout,
                shutdown_timeout_seconds=int(SHUTDOWN_SECONDS) + 10,  # `shutdown` has its own exit code
            )
    except (RuntimeError, ValueError) as error:
        remedy = 'if JAX detects no cluster, give --coordinator=HOST:PORT --num_hosts=N --host=I'
        raise UserError('--distributed', f'no hosts were connected ({reason(error)})', remedy) from error
    all_devices()
    # CPUs wait only 30 s for each other in their first collective, and compiling may take longer: do it now.
    ready = synced_flag(lambda: False)
    ready()
    ready()  # the answer to the first call
    if jax.process_index() > 0:
        say(f'host {jax.process_index()} of {jax.process_count()}; host 0 shows progress and writes logs')


def shutdown(code: int) -> None:
    """Closes the connection; if the other hosts do not close theirs, ends the process with this exit code."""
    with _deadline(SHUTDOWN_SECONDS, code):
        jax.distributed.shutdown()


def abort(error: Exception) -> NoReturn:
    """Ends the process after a failed collective: a clean shutdown would wait for dead hosts."""
    say(
        f'error: host {jax.process_index()} of {jax.process_count()}: a computation of all hosts failed '
        f'({type(error).__name__}: {str(error)[:200]}); if one of them died, give the same command on all of '
        'them to resume from the last checkpoint'
    )
    os._exit(1)


def any_process(yes: bool) -> bool:
    """Whether any host passes True; waits for all hosts to call it."""
    return bool(process_allgather(np.array(yes)).any())


def largest_of_hosts(number: int) -> int:
    """The largest of the hosts' numbers; waits for all hosts to call it."""
    return int(process_allgather(np.array(number)).max())


def check_same(what: str, value: object) -> None:
    """UserError if the hosts see different values of what all of them read in one folder."""
    digest = np.array(zlib.crc32(repr(value).encode()))
    if np.ptp(process_allgather(digest)):
        remedy = 'give all of them one shared folder; if its files were written just now, wait a minute'
        raise UserError(what, f'hosts see different values, this one {value}', remedy)


@contextlib.contextmanager
def raise_together() -> Iterator[None]:
    """If the block raises an error on one host, raises UserError on the others, which would wait forever."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    if any_process(error is not None):
        raise error or UserError('another host', 'failed', 'see its output for the error')


def synced_flag(ask: Callable[[], bool]) -> Callable[[], bool]:
    """`ask` as all hosts answer it together, in a loop that all of them run.

    With several hosts each call returns the answer to the previous call, so that no device waits for it.
    """
    if jax.process_count() == 1:
        return ask
    mesh = jax.make_mesh((jax.device_count(),), ('devices',), (AxisType.Auto,))
    split, everywhere = NamedSharding(mesh, PartitionSpec('devices')), NamedSharding(mesh, PartitionSpec())
    any_of = jax.jit(jnp.any, out_shardings=everywhere)
    asked: list[Any] = []

    def ask_all() -> bool:
        own = np.full(jax.local_device_count(), ask())
        asked.append(any_of(jax.make_array_from_process_local_data(split, own)))
        return len(asked) > 1 and bool(asked.pop(0))

    return ask_all


@contextlib.contextmanager
def _deadline(seconds: float, code: int, last_line: str = '') -> Iterator[None]:
    """Ends the process if the block takes longer; JAX's native waits cannot be interrupted."""

    def end() -> None:
        if last_line:
            say(last_line)
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
