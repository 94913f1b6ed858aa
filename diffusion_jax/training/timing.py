"""Where the time of a training goes, measured without waiting for the device between two lines of the log.

Names of such numbers have a slash: unlike metrics they are not the same when a run is repeated.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax


class Timer:
    """The stopwatch of a training loop.

    Each moment is spent in `training`, `waiting` for the next batch or `aside` (saving, drawing, validating).
    The first step is in none of these: it compiles.

    Args:
        least_s: the seconds of a step at the devices' peak; None where it is unknown.
    """

    def __init__(
        self,
        batch_size: int,
        least_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._batch_size, self._least_s, self._clock = batch_size, least_s, clock
        self._compile_s: float | None = None
        # Seconds by what they were spent in, and 'steps': since the last line of the log, and before it.
        self._lap, self._earlier = collections.Counter(), collections.Counter()
        self._mark = clock()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the next batch. The device may be at work meanwhile: it idles for this time at most."""
        self._spend('training')
        yield
        self._spend('waiting')

    @contextlib.contextmanager
    def aside(self, metrics: Any) -> Iterator[None]:
        """What is not training. Waits for the step of these metrics first, as what needs its state would."""
        jax.block_until_ready(metrics)
        self._spend('training')
        yield
        self._spend('aside')

    def count_step(self, metrics: Any) -> None:
        """A step is under way that will give these metrics. Waits for the first one, once it is compiled."""
        if self._compile_s is None:
            self._compile_s = self._clock() - self._mark
            jax.block_until_ready(metrics)
            self._lap.clear()
            self._mark = self._clock()
        else:
            self._lap['steps'] += 1

    def take(self) -> dict[str, float]:
        """The numbers for a line of the log, at a moment when no step is under way; the next line begins."""
        self._spend('training')
        first = {} if self._earlier else {'time/compile_s': self._compile_s}
        numbers = self._numbers(self._lap) | {'time/aside_s': self._lap['aside']}
        self._earlier, self._lap = self._earlier + self._lap, collections.Counter()
        return first | numbers | memory(jax.local_devices())

    def summary(self) -> str:
        """Of all lines that were taken."""
        parts = [f'compiled in {self._compile_s:.1f} s']
        numbers = self._numbers(self._earlier)
        if numbers:
            step, images, wait = (numbers[f'time/{name}'] for name in ('step_s', 'images_per_s', 'data_wait'))
            parts.append(f'{step:.3g} s a step, {images:,.1f} images/s, {wait:.1%} of it waiting for data')
            share = numbers.get('time/peak_share')
            parts += [f'{share:.1%} of the bfloat16 peak'] if share else []
        peak = memory(jax.local_devices()).get('memory/peak_bytes')
        parts += [f'{peak / 2**30:.2f} GiB of a device'] if peak else []
        return '; '.join(parts)

    def _spend(self, kind: str) -> None:
        now = self._clock()
        self._lap[kind] += now - self._mark
        self._mark = now

    def _numbers(self, spent: collections.Counter) -> dict[str, float]:
        seconds, steps = spent['training'] + spent['waiting'], spent['steps']
        if not steps:
            return {}
        share = {'time/peak_share': self._least_s * steps / seconds} if self._least_s else {}
        return share | {
            'time/step_s': seconds / steps,
            'time/images_per_s': self._batch_size * steps / seconds,
            'time/data_wait': spent['waiting'] / seconds,
        }


def memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Bytes in use, now and at most, of the fullest device; nothing where devices do not say, as CPUs."""
    known = [stats for stats in (device.memory_stats() for device in devices) if stats]
    names = {'memory/bytes': 'bytes_in_use', 'memory/peak_bytes': 'peak_bytes_in_use'}
    return {
        name: max(stats[key] for stats in known)
        for name, key in names.items()
        if known and all(key in stats for stats in known)
    }
