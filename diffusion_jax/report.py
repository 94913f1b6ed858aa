"""What the user sees of a run: progress bars, metrics.jsonl and TensorBoard event files.

With several hosts only the first shows and writes them.
"""

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from diffusion_jax.errors import UserError, reason
from diffusion_jax.streams import PatientStream

logger = logging.getLogger(__name__)
logging.getLogger('tensorboardX.x2num').setLevel(logging.ERROR)  # it warns of NaN

METRICS_FILE = 'metrics.jsonl'
LINE = '{desc} {percentage:3.0f}%  {n:.0f}/{total}  [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
BAR = '{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'


class Progress:
    """A tqdm bar of `total` units; a line every `interval` seconds in files."""

    def __init__(self, title: str, total: int, *, unit: str = 'images', interval: float = 10.0):
        self._title, self._total, self._unit, self._interval = title, total, unit, interval
        self._done = 0

    def begin(self, done: int) -> 'Progress':
        """Sets the number that is done already."""
        self._done = done
        return self

    def __enter__(self) -> 'Progress':
        stream = PatientStream(sys.stderr)
        options = {'file': stream, 'bar_format': BAR, 'dynamic_ncols': True}
        if not stream.isatty() and not issubclass(tqdm, tqdm_notebook):
            options = {'file': _Lines(stream), 'bar_format': LINE, 'mininterval': self._interval}
        options |= {'initial': self._done, 'miniters': 0, 'disable': jax.process_index() > 0}
        self._bar = tqdm(desc=self._title, total=self._total, unit=f' {self._unit}', **options)
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """Sets the number that is done, and values that are shown with it."""
        self._done = done
        texts = {name: f'{x:,.0f}' if x >= 1000 else f'{x:.4g}' for name, x in (values or {}).items()}
        self._bar.set_postfix(texts, refresh=False)
        self._bar.update(done - self._bar.n)

    def within(self, step: int, num_steps: int, size: int) -> None:
        """Sets the number of steps that are done of the next `size` units."""
        self._bar.update(min(self._done + size * step / num_steps, self._total) - self._bar.n)


class _Lines(PatientStream):
    """Writes every state of a bar as a line."""

    def write(self, text: str) -> int:
        return super().write(text.strip() + '\n') if text.strip() else 0


class MetricsWriter(contextlib.AbstractContextManager):
    """Appends scalars to `directory`/metrics.jsonl, and scalars and images to TensorBoard event files there.

    Lines of metrics that a full disk does not accept stay in memory and are written later; event files end.

    resume_step: lines of later steps are removed, because a resumed run writes them again.
    """

    def __init__(self, directory: str | Path, resume_step: int = 0):
        self._path, self._events = Path(os.devnull), None
        self._waiting = b''
        if jax.process_index() == 0:
            self._path = Path(directory) / METRICS_FILE
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                ends = [end for end, step in _lines(self._path) if step <= resume_step]
                os.truncate(self._path, max(ends, default=0))
            # Not SummaryWriter: a full disk ends its thread, and then its queue blocks the training.
            self._events = EventsWriter(str(self._path.with_name('events')))
        self._file = open(self._path, 'ab', buffering=0)
        # TensorBoard drops this and later steps from earlier files.
        self._add_event(resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def __exit__(self, *error: object) -> None:
        self._append(b'')
        if self._waiting:
            logger.warning('%s: %d bytes could not be written and are lost', self._path, len(self._waiting))
        self._file.close()
        self._tensorboard('close')

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A line of metrics.jsonl: the step, then the values by name; null for what is not finite."""
        values = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append((json.dumps({'step': step} | finite) + '\n').encode())
        for name, value in values.items():
            self._add_event(step, summary=summary.scalar(name, value))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """uint8 [H, W, C], grey or RGB; only for TensorBoard."""
        self._add_event(step, summary=summary.image(name, image, dataformats='HWC'))

    def flush(self) -> None:
        """Tries to write what is buffered or could not be written before."""
        self._tensorboard('flush')
        self._append(b'')

    def _append(self, data: bytes) -> None:
        failed_before = bool(self._waiting)
        self._waiting += data
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not failed_before:
                logger.warning('%s: cannot be written now (%s)', self._path, reason(error))

    def _add_event(self, step: int, **content: Any) -> None:
        self._tensorboard('write_event', Event(wall_time=time.time(), step=step, **content))

    def _tensorboard(self, method: str, *args: Any) -> None:
        """Calls a method of the writer of event files, until one fails."""
        try:
            if self._events is not None:
                getattr(self._events, method)(*args)
        except OSError as error:
            self._events = None
            logger.warning('%s: TensorBoard gets no more events (%s)', self._path.parent, reason(error))


def last_logged_step(directory: str | Path) -> int:
    """The step of the last complete line of metrics in a folder; 0 without one."""
    path = Path(directory) / METRICS_FILE
    return max((step for _, step in _lines(path)), default=0) if path.exists() else 0


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """Where each complete line of metrics ends, and its step."""
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        end += len(line)
        if line.endswith(b'\n'):
            try:
                yield end, int(json.loads(line)['step'])
            except (ValueError, KeyError, TypeError) as error:
                problem = f'contains a line that is no metrics: {line[:40]!r}'
                raise UserError(str(path), problem, 'remove the line or the file') from error
