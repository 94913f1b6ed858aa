"""A trace of some steps: what the devices and the host were doing, kernel by kernel."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.training.checkpoints import reason_of

logger = logging.getLogger(__name__)


class Profiler:
    """Traces the steps `first` to `last` of a training by jax.profiler; with () none.

    A training that goes on from between them traces those that are left. The trace lies in the directory as
    TensorBoard's profile plugin and xprof read it. Where it cannot be made training goes on, and a line says
    why.
    """

    def __init__(self, steps: tuple[int, ...], directory: Path):
        self._first, self._last = steps or (0, 0)
        self._directory = directory
        self._tracing, self._over = False, not steps

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tracing:
            with self._excused():
                jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        if self._over or self._tracing or step < self._first:
            return
        if step > self._last:
            logger.info(
                '%s: no trace, since steps %d to %d are past', self._directory, self._first, self._last
            )
            self._over = True
            return
        self._first, self._tracing = step, True
        with self._excused():
            jax.profiler.start_trace(self._directory)

    def after(self, step: int, metrics: Any) -> None:
        """Ends the trace after its last step, for whose metrics it waits."""
        if self._tracing and step == self._last:
            jax.block_until_ready(metrics)
            with self._excused():
                jax.profiler.stop_trace()
                logger.info('%s: a trace of steps %d to %d', self._directory, self._first, self._last)
            self._tracing, self._over = False, True

    @contextlib.contextmanager
    def _excused(self) -> Iterator[None]:
        """A full disk, or another trace under way, is no reason to lose a training."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            logger.warning('%s: no trace (%s); training goes on', self._directory, reason_of(error))
            self._tracing, self._over = False, True
