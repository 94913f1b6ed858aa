"""Several hosts as one run: how they find each other, agree and part.

A host is one process of `jax.distributed`, with all devices of a machine or with one of them. Each is given
the same command; the first is the coordinator, which the others connect to.
"""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError, say

PARTING_SECONDS = 30.0


@dataclass(frozen=True)
class Hosts:
    """Where the hosts of a run are.

    Attributes:
        coordinator: HOST:PORT of the first host; '' leaves it, with the next two, to what JAX detects.
        num_hosts, host: how many there are, and which of them this is.
        initialization_timeout: so many seconds the hosts wait for each other at the start.
        heartbeat_timeout: a host that was not heard of for so many seconds is dead, which ends the others.
    """

    coordinator: str
    num_hosts: int | None
    host: int | None
    initialization_timeout: int
    heartbeat_timeout: int


def check_hosts(hosts: Hosts, detected: bool) -> None:
    """UserError unless the flags name a coordinator and one of its hosts, or none, or these are detected."""
    if hosts.coordinator and detected:
        raise UserError('--distributed detects what --coordinator names; give one of them')
    if not hosts.coordinator and not detected and (hosts.num_hosts, hosts.host) != (None, None):
        raise UserError('--num_hosts and --host need --coordinator=HOST:PORT')
    if not hosts.coordinator:
        return
    address, _, port = hosts.coordinator.rpartition(':')
    if not address or not port.isdigit():
        raise UserError(f'--coordinator is {hosts.coordinator!r}; give HOST:PORT, such as 10.0.0.1:1234')
    if hosts.num_hosts is None or hosts.host is None or not 0 <= hosts.host < hosts.num_hosts:
        raise UserError(
            f'--coordinator needs --num_hosts=N and --host=I, 0 ≤ I < N; given are {hosts.num_hosts} and '
            f'{hosts.host}'
        )


def connect(hosts: Hosts) -> None:
    """Makes the devices of all hosts known to each; before anything else asks JAX for devices.

    The program ends with exit code 1 where not all hosts come in time.

    Raises:
        UserError: no cluster was detected, or JAX finds no devices.
    """
    who = 'one that a cluster started'
    if hosts.coordinator:
        who = f'host {hosts.host} of {hosts.num_hosts}, coordinator {hosts.coordinator}'
    late = (
        f'error: not all hosts came within {hosts.initialization_timeout} s (this is {who}); start the same '
        'command on each, where it can reach the port of the coordinator'
    )
    say(f'waiting for all hosts, up to {hosts.initialization_timeout} s (this is {who}) …')
    try:
        # JAX's own timeout ends the process without a message that a user could use: it comes later.
        with deadline(hosts.initialization_timeout, 1, late):
            jax.distributed.initialize(
                hosts.coordinator or None,
                hosts.num_hosts,
                hosts.host,
                initialization_timeout=hosts.initialization_timeout + 10,
                heartbeat_timeout_seconds=hosts.heartbeat_timeout,
                shutdown_timeout_seconds=int(PARTING_SECONDS) + 10,  # `part` ends with its own exit code
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f'no hosts were connected ({reason}); where JAX detects no cluster give --coordinator=HOST:PORT '
            '--num_hosts=N --host=I'
        ) from error
    all_devices()
    # CPUs wait 30 s for each other when they first compute together, which compiling may outlast: do it now.
    together = synced_flag(lambda: False)
    together()
    together()
    if jax.process_index() > 0:
        say(f'host {jax.process_index()} of {jax.process_count()}; host 0 shows progress and writes logs')


def shutdown(code: int) -> None:
    """Ends the connection; where the other hosts do not end theirs, the process, with this exit code."""
    with deadline(PARTING_SECONDS, code):
        jax.distributed.shutdown()


def abort(error: Exception) -> NoReturn:
    """Ends the process after an error in what all hosts compute: there is no parting from the dead."""
    who = f'host {jax.process_index()} of {jax.process_count()}'
    say(
        f'error: {who}: what the hosts compute together failed ({type(error).__name__}: {str(error)[:200]}); '
        'if one of them died, give the same command on all of them to go on from the last checkpoint'
    )
    os._exit(1)


def wait_for_all_hosts(where: str) -> None:
    """Returns when every host has come to the same place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def any_process(yes: bool) -> bool:
    """Whether any host says yes; all come to the same place and learn the same."""
    return yes if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(yes)).any())


def largest_of_hosts(number: int) -> int:
    """The largest number that a host comes with."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.array(number)).max())


def check_same(what: str, value: object) -> None:
    """UserError where the hosts come with different values of what all of them look at in one folder."""
    if jax.process_count() == 1:
        return
    number = np.array(zlib.crc32(repr(value).encode()))
    if len(set(multihost_utils.process_allgather(number).tolist())) > 1:
        raise UserError(
            f'hosts see different {what}, this one {value}; give all of them one folder that they share, and '
            'where its files were written a moment ago wait a minute'
        )


@contextlib.contextmanager
def raise_together() -> Iterator[None]:
    """Where one host raises an error the others raise UserError, instead of waiting for it ever after."""
    wrong = None
    try:
        yield
    except Exception as error:
        wrong = error
    if any_process(wrong is not None):
        raise wrong or UserError('another host cannot go on; it says why')


def synced_flag(ask: Callable[[], bool]) -> Callable[[], bool]:
    """`ask` as the hosts answer it together, in a loop that all of them are in.

    Of several hosts each call tells what was asked for at the call before: no device waits for the answer.
    """
    if jax.process_count() == 1:
        return ask
    mesh = jax.make_mesh((jax.device_count(),), ('devices',), (AxisType.Auto,))
    each, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (('devices',), ()))
    any_of = jax.jit(jnp.any, out_shardings=everywhere)
    asked: list[jax.Array] = []

    def ask_all() -> bool:
        own = np.full(jax.local_device_count(), ask())
        asked.append(any_of(jax.make_array_from_process_local_data(each, own)))
        return len(asked) > 1 and bool(asked.pop(0))

    return ask_all


@contextlib.contextmanager
def deadline(seconds: float, code: int, last_line: str = '') -> Iterator[None]:
    """Ends the process if what is inside takes longer: no exception reaches into JAX."""

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
