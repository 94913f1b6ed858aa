"""What a person sees of a run: a progress line, metrics.jsonl and TensorBoard event files.

Of several hosts the first alone shows and writes them; what the others report goes nowhere.
"""

from __future__ import annotations

import collections
import json
import logging
import math
import shutil
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from diffusion_jax.errors import UserError, reason
from diffusion_jax.streams import PatientStream

logger = logging.getLogger(__name__)
logging.getLogger('tensorboardX.x2num').setLevel(logging.ERROR)  # metrics.jsonl has null, a picture has a gap

METRICS_FILE = 'metrics.jsonl'
BAR_WIDTH = 20
REDRAW_SECONDS = 0.1


class Progress:
    """How far a long part is, with values such as the loss, images per second and the time left.

    On a terminal one line is redrawn in place; elsewhere a plain line is printed every `interval` seconds.
    Speed is the mean over the last updates; the time before the first, when programs compile, is not in it.

    Args:
        title: what is going on, in a word or two.
        total: what `update` is given at the end.
        start: where a resumed run begins; shown on entering, while there is nothing to update yet.
        images_per_step: images in one step of `total`; 1 where `total` counts images.
        at_first: shown until the first update.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        start: int = 0,
        images_per_step: int = 1,
        at_first: str = 'compiling, first batch …',
        interval: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.title, self.total, self.images_per_step = title, total, images_per_step
        self._stream = PatientStream(sys.stderr if stream is None else stream)
        self._at_first = at_first
        self._silent = jax.process_index() > 0
        self._live = self._stream.isatty()
        self._interval = REDRAW_SECONDS if self._live else interval
        self._clock = clock
        self._started = clock()
        self._updates: collections.deque[tuple[float, float]] = collections.deque(maxlen=50)
        self._shown = -math.inf
        self._done = start
        self._step = ''

    def begin(self, done: int) -> Progress:
        """The same, where a resumed run begins is `done`."""
        self._done = done
        return self

    def __enter__(self) -> Progress:
        self._show({})
        return self

    def __exit__(self, *error: object) -> None:
        if self._live and not self._silent:
            self._stream.write('\n')
            self._stream.flush()

    def update(self, done: int, **values: float) -> None:
        """`done` of `total` are done; shown if it is time, or the end."""
        now = self._clock()
        self._done, self._step = done, ''
        self._updates.append((now, done))
        if now - self._shown >= self._interval or done >= self.total:
            self._show(values)

    def within(self, step: int, num_steps: int, size: int) -> None:
        """Of the work that comes next, `size` of `total`, `step` of `num_steps` steps are done."""
        now = self._clock()
        self._step = f'step {step}/{num_steps}'
        self._updates.append((now, min(self._done + size * step / num_steps, self.total)))
        if now - self._shown >= self._interval:
            self._show({})

    def _show(self, values: Mapping[str, float]) -> None:
        self._shown = self._clock()
        if self._silent:
            return
        line = self._line(values)
        if self._live:
            # Cut to the terminal's width: a wrapped line could not be redrawn. \033[K clears what was longer.
            line = '\r' + line[: shutil.get_terminal_size().columns - 1] + '\033[K'
        else:
            line += '\n'
        self._stream.write(line)
        self._stream.flush()

    def _line(self, values: Mapping[str, float]) -> str:
        reached = self._updates[-1][1] if self._updates else self._done
        share = reached / max(self.total, 1)
        filled = round(BAR_WIDTH * share)
        bar = '█' * filled + '·' * (BAR_WIDTH - filled) + ' ' if self._live else ''
        parts = [f'{self.title} {bar}{share:4.0%}', f'{self._done:,}/{self.total:,}']
        parts += [self._step] * bool(self._step)
        parts += [f'{name} {value:.4g}' for name, value in values.items()]
        if not self._updates and self._done < self.total and self._at_first:
            parts.append(self._at_first)
        speed = self._speed()
        if speed:
            parts.append(f'{_number(speed * self.images_per_step)} images/s')
        if speed and self._done < self.total:
            parts.append(f'{_duration((self.total - reached) / speed)} left')
        if self._done >= self.total:
            parts.append(f'took {_duration(self._clock() - self._started)}')
        return '  '.join(parts)

    def _speed(self) -> float:
        """Steps a second; 0 where nothing is known yet."""
        if len(self._updates) < 2:
            return 0.0
        (first_time, first), (last_time, last) = self._updates[0], self._updates[-1]
        return (last - first) / max(last_time - first_time, 1e-9)


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 10 else f'{value:.2g}'


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


class MetricsWriter:
    """Appends scalars to `directory`/metrics.jsonl, and scalars and images to TensorBoard event files there.

    Args:
        resume_step: what an interrupted run wrote of later steps is dropped, because they come again.
    """

    def __init__(self, directory: str | Path, resume_step: int = 0):
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / METRICS_FILE
        if path.exists():
            _drop_later_steps(path, resume_step)
        self._lines = _GrowingFile(path)
        now = time.time()
        self._events = _GrowingFile(directory / f'events.out.tfevents.{now:.6f}.{socket.gethostname()}')
        self._events.append(_record(Event(wall_time=now, file_version='brain.Event:2')))
        log = SessionLog(status=SessionLog.START)  # TensorBoard drops what earlier files have from there on
        self._events.append(_record(Event(wall_time=now, step=resume_step + 1, session_log=log)))

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl: the step, then the values by name; what is not finite becomes null."""
        if not self._writes:
            return
        values = {name: float(value) for name, value in values.items()}
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.append((json.dumps({'step': step} | line) + '\n').encode())
        for name, value in values.items():
            self._add_event(step, summary.scalar(name, value))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """uint8 [H, W, C], grey or RGB; only for TensorBoard."""
        if self._writes:
            self._add_event(step, summary.image(name, image, dataformats='HWC'))

    def flush(self) -> bool:
        """Tries again to write what a full disk did not take; whether all lines of metrics are written."""
        if not self._writes:
            return True
        self._events.append(b'')
        return self._lines.append(b'')

    def close(self) -> None:
        if self._writes:
            self._lines.close()
            self._events.close()

    def _add_event(self, step: int, content: summary.Summary) -> None:
        self._events.append(_record(Event(wall_time=time.time(), step=step, summary=content)))


class _GrowingFile:
    """What a full disk does not take is kept in memory, and written as soon as there is room again."""

    def __init__(self, path: Path):
        self._path = path
        self._file = open(path, 'ab', buffering=0)
        self._waiting = b''
        self._failed = False

    def append(self, data: bytes) -> bool:
        """Whether all was written, of this and what waited."""
        self._waiting += data
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.warning('%s: cannot be written (%s); tried again later', self._path, reason(error))
            self._failed = True
        return not self._waiting

    def close(self) -> None:
        self.append(b'')
        if self._waiting:
            logger.warning('%s: %d bytes could not be written and are lost', self._path, len(self._waiting))
        self._file.close()


def names_at(directory: str | Path, step: int) -> set[str]:
    """The names of all that is logged in `directory` at a step."""
    path = Path(directory) / METRICS_FILE
    whole = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
    return {name for line in whole if _step_of(path, line) == step for name in json.loads(line)}


def _record(event: Event) -> bytes:
    """An event as TensorBoard's files hold it, between checksums."""
    data = event.SerializeToString()
    length = struct.pack('<Q', len(data))
    checksums = [struct.pack('<I', masked_crc32c(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]


def _drop_later_steps(path: Path, last_step: int) -> None:
    """Cuts the file before the first line that is of a later step or was not written to its end."""
    end = 0
    with open(path, 'rb+') as file:
        for line in file:
            if not line.endswith(b'\n') or _step_of(path, line) > last_step:
                break
            end += len(line)
        file.truncate(end)


def _step_of(path: Path, line: bytes) -> int:
    try:
        return int(json.loads(line)['step'])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: has a line that is no metrics, {line[:40]!r}; remove it or the file'
        ) from error
