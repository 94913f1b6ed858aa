"""A trace of some steps: what the devices and the host were doing, kernel by kernel."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax

logger = logging.getLogger(__name__)


class Profiler:
    """Traces the steps `first` to `last` of a training by jax.profiler; with () none.

    The trace lies in the directory as TensorBoard's profile plugin and xprof read it.
    """

    def __init__(self, steps: tuple[int, ...], directory: Path):
        self._first, self._last = steps or (0, 0)
        self._directory = directory
        self._tracing = False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tracing:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        if step == self._first:
            jax.profiler.start_trace(self._directory)
            self._tracing = True

    def after(self, step: int, metrics: Any) -> None:
        """Ends the trace after its last step, for whose metrics it waits."""
        if self._tracing and step == self._last:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            self._tracing = False
            logger.info('%s: a trace of steps %d to %d', self._directory, self._first, self._last)
