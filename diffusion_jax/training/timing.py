"""The time and memory of a training, measured without waiting for the device between two lines of the log.

Names of these numbers contain a slash: unlike metrics they differ between runs.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.errors import reason

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


class Timer:
    """The stopwatch of a training loop.

    Time is spent in 'training', 'waiting' for the next batch (meanwhile devices may still be computing) or
    'paused' (saving, hooks). The first step, which compiles, is counted in none of these.

    least_s: the seconds of a step at the devices' peak; None where it is unknown.
    """

    def __init__(self, batch_size: int, least_s: float | None = None, clock: Clock = time.perf_counter):
        self._batch_size, self._least_s, self._clock = batch_size, least_s, clock
        self._compile_s: float | None = None
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._steps, self._mark = 0, clock()

    @contextlib.contextmanager
    def spending(self, kind: str, after: Any = ()) -> Iterator[None]:
        """For 'waiting' or 'paused', which begins once the arrays `after` are computed."""
        jax.block_until_ready(after)
        self._spend('training')
        yield
        self._spend(kind)

    def count_step(self, metrics: Any) -> None:
        """Counts a step that was dispatched. Waits for the first one, which has just been compiled."""
        if self._compile_s is None:
            self._compile_s = self._clock() - self._mark
            jax.block_until_ready(metrics)
            self._seconds.clear()
            self._mark = self._clock()
        else:
            self._steps += 1

    def flush(self) -> dict[str, float]:
        """The numbers for a line of the log, called when no step is being computed; restarts the timer."""
        self._spend('training')
        seconds, steps = self._seconds, self._steps
        total = seconds['training'] + seconds['waiting']
        values = {'time/aside_s': seconds['paused']}
        if steps:
            values['time/step_s'] = total / steps
            values['time/images_per_s'] = self._batch_size * steps / total
            values['time/data_wait'] = seconds['waiting'] / total
        if steps and self._least_s:
            values['time/peak_share'] = self._least_s * steps / total
        if self._compile_s:
            values['time/compile_s'], self._compile_s = self._compile_s, 0.0
        self._seconds, self._steps = collections.defaultdict(float), 0
        return values | memory(jax.local_devices())

    def _spend(self, kind: str) -> None:
        now = self._clock()
        self._seconds[kind] += now - self._mark
        self._mark = now


def memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Bytes in use, now and at peak, of the fullest device; empty where devices do not report them."""
    stats: list[dict[str, float]] = [device.memory_stats() or {} for device in devices]
    values = {}
    for name, key in (('memory/bytes', 'bytes_in_use'), ('memory/peak_bytes', 'peak_bytes_in_use')):
        if all(key in each for each in stats):
            values[name] = max(each[key] for each in stats)
    return values


class Profiler(contextlib.AbstractContextManager):
    """Traces the steps `first` to `last` of a training with jax.profiler; () traces none.

    TensorBoard's profile plugin and xprof read the trace. If it fails, training continues.
    """

    def __init__(self, steps: tuple[int, ...], directory: Path):
        self._first, self._last = steps or (1, 0)
        self._directory, self._tracing = directory, False

    def __exit__(self, *error: object) -> None:
        if self._tracing:
            self._try(jax.profiler.stop_trace)

    def call(self, step: int, function: Callable[..., Any], *args: Any) -> Any:
        """The result of `function`, which computes a step. Waits for it if it is the last of the trace."""
        if not self._tracing and self._first <= step <= self._last:
            self._tracing = True
            self._try(jax.profiler.start_trace, self._directory)
        result = function(*args)
        if self._tracing and step == self._last:
            jax.block_until_ready(result)
            self._tracing = False
            self._try(jax.profiler.stop_trace)
        return result

    def _try(self, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except (OSError, RuntimeError) as error:
            logger.warning('%s: no trace (%s)', self._directory, reason(error))
            self._tracing, self._last = False, 0
