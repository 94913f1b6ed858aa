"""How the hosts that write a checkpoint together learn that one of them could not write its part.

A host that has written its part waits for the others in a barrier of Orbax; only then does the checkpoint
become valid. A host that could not write never comes there, and the others would wait for as long as a write
may take. To the barrier here it comes, too, and says so.
"""

from __future__ import annotations

import itertools
import threading

import jax
import orbax.checkpoint as ocp

# Orbax's names of where hosts meet, in 0.12: a host comes to the last one however its write went, and there
# twice, at the start and at the end of noting that nothing is being written.
WRITTEN, COMMITTED, ENDED = 'async_write_complete', 'async_commit_complete', 'set_value'

_numbers = itertools.count()  # of writes; hosts begin the same ones in the same order


class Barrier:
    """What Orbax calls, in its own threads, where hosts meet during a write."""

    def __init__(self) -> None:
        self._client = ocp.multihost.get_jax_distributed_client() if jax.process_count() > 1 else None

    def begin(self) -> None:
        """Before a write; all hosts call it."""
        self._write = f'diffusion_jax/write/{next(_numbers)}'
        self._to_come = [WRITTEN, COMMITTED]

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """
        Raises:
            RuntimeError: another host could not write its part; or this Orbax has other names.
        """
        # On the main thread Orbax only notes that a write begins.
        if self._client is None or threading.current_thread() is threading.main_thread():
            return
        if WRITTEN in key:
            self._meet(timeout_ms)
            failed = [host for _, host in self._client.key_value_dir_get(f'{self._write}/failed/')]
            if failed:
                raise RuntimeError(f'host {", ".join(failed)} could not write its part')
        elif COMMITTED in key:
            self._meet(timeout_ms)
        elif ENDED in key:
            self._end(timeout_ms)
        else:
            raise RuntimeError(
                f'Orbax {ocp.__version__} lets hosts meet at {key!r}, which 0.12 does not have; install a '
                'version that setup.py allows'
            )

    def _meet(self, timeout_ms: int) -> None:
        place = self._to_come.pop(0)
        self._client.wait_at_barrier(f'{self._write}/{place}', timeout_ms)

    def _end(self, timeout_ms: int) -> None:
        """A write has ended; where it failed the others wait."""
        if WRITTEN in self._to_come:
            host = str(jax.process_index())
            self._client.key_value_set(f'{self._write}/failed/{host}', host)
        while self._to_come:
            self._meet(timeout_ms)
