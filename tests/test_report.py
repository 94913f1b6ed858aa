import errno
import io
import json
import logging
import math
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from diffusion_jax.report import METRICS_FILE, MetricsWriter, Progress, names_at


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_come_now_and_then():
    stream, clock = io.StringIO(), Clock()
    with Progress('train', 40, images_per_step=64, interval=10, stream=stream, clock=clock) as progress:
        for step in range(1, 41):
            clock.now += 1 if step > 1 else 30  # the first step compiles
            progress.update(step, loss=1 / step)
    lines = stream.getvalue().splitlines()
    assert lines == [
        'train   0%  0/40  compiling, first batch …',
        'train   2%  1/40  loss 1',
        'train  28%  11/40  loss 0.09091  64 images/s  0:29 left',
        'train  52%  21/40  loss 0.04762  64 images/s  0:19 left',
        'train  78%  31/40  loss 0.03226  64 images/s  0:09 left',
        'train 100%  40/40  loss 0.025  64 images/s  took 1:09',
    ]


def test_terminal_line_is_redrawn(monkeypatch):
    monkeypatch.setenv('COLUMNS', '70')
    stream, clock = Terminal(), Clock()
    with Progress('sample', 100, stream=stream, clock=clock) as progress:
        for done in (25, 50, 100):
            clock.now += 5
            progress.update(done)
    start, first, second, last = stream.getvalue().split('\r')[1:]
    assert start == 'sample ····················   0%  0/100  compiling, first batch …\033[K'
    assert first == 'sample █████···············  25%  25/100\033[K'
    assert second.startswith('sample ██████████··········  50%  50/100  5 images/s  0:10')
    assert last.endswith('\n') and '100%' in last
    assert all(len(line.split('\033')[0]) < 70 for line in (start, first, second, last))


def test_resumed_run_shows_its_own_speed():
    stream, clock = io.StringIO(), Clock()
    with Progress('train', 1000, start=890, interval=0, stream=stream, clock=clock) as progress:
        for step in (900, 910):
            clock.now += 1
            progress.update(step)
    lines = stream.getvalue().splitlines()
    assert lines[0] == 'train  89%  890/1,000  compiling, first batch …'
    assert lines[-1] == 'train  91%  910/1,000  10 images/s  0:09 left'


def test_steps_within_a_batch_are_shown_with_the_time_left():
    stream, clock = io.StringIO(), Clock()
    with Progress('samples', 512, interval=0, stream=stream, clock=clock).begin(0) as progress:
        for step in range(0, 250, 50):
            clock.now += 10
            progress.within(step, 250, 256)
        progress.update(256)
    lines = stream.getvalue().splitlines()
    assert 'compiling' in lines[0] and not any('compiling' in line for line in lines[1:])
    assert lines[2] == 'samples  10%  0/512  step 50/250  5.1 images/s  1:30 left'
    assert 'step' not in lines[-1] and '50%' in lines[-1]


def test_a_reader_that_goes_away_is_no_reason_to_stop():
    class Broken(Terminal):
        def write(self, text):
            super().write(text)
            raise BrokenPipeError(errno.EPIPE, 'Broken pipe')

    with Progress('training', 4, stream=Broken()) as progress:
        progress.update(4)


@pytest.mark.parametrize('stream', [None, io.TextIOWrapper(io.BytesIO(), 'ascii')])
def test_progress_needs_no_stream_that_shows_everything(monkeypatch, stream):
    monkeypatch.setattr('sys.stderr', stream)
    with Progress('training', 4) as progress:
        progress.update(4)
    assert stream is None or b'100%  4/4' in stream.buffer.getvalue()


def read_lines(directory):
    return [json.loads(line) for line in (directory / METRICS_FILE).read_text().splitlines()]


def read_events(directory):
    """The events of all files there, in order: each is length, checksum, message, checksum."""
    for path in sorted(directory.glob('events.*')):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack('<Q', data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_scalars_are_written_to_both(tmp_path):
    with MetricsWriter(tmp_path / 'run') as writer:
        writer.scalars(10, {'loss': np.float32(0.5), 'grad_norm': 2})
        writer.scalars(20, {'loss': math.nan, 'grad_norm': math.inf})
        writer.image(20, 'samples', np.zeros((4, 6, 1), np.uint8))
    assert read_lines(tmp_path / 'run') == [
        {'step': 10, 'loss': 0.5, 'grad_norm': 2.0},
        {'step': 20, 'loss': None, 'grad_norm': None},
    ]
    values = {(e.step, v.tag): v for e in read_events(tmp_path / 'run') for v in e.summary.value}
    assert values[10, 'loss'].simple_value == 0.5
    assert math.isnan(values[20, 'loss'].simple_value)
    assert (values[20, 'samples'].image.height, values[20, 'samples'].image.width) == (4, 6)


def test_lines_are_on_disk_at_once(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {'loss': 1.0})
        assert len(read_lines(tmp_path)) == 1


@pytest.mark.parametrize('tail', ['', '{"step": 30, "lo'])
def test_resumed_run_repeats_no_line(tmp_path, tail):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30, 40):
            writer.scalars(step, {'loss': 1.0})
    with open(tmp_path / METRICS_FILE, 'a') as file:
        file.write(tail)
    with MetricsWriter(tmp_path, resume_step=20) as writer:
        writer.scalars(30, {'loss': 2.0})
    assert [(line['step'], line['loss']) for line in read_lines(tmp_path)] == [
        (10, 1.0),
        (20, 1.0),
        (30, 2.0),
    ]


def test_tensorboard_is_told_where_a_resumed_run_begins(tmp_path):
    with MetricsWriter(tmp_path, resume_step=20) as writer:
        writer.scalars(30, {'loss': 2.0})
    starts = [e.step for e in read_events(tmp_path) if e.HasField('session_log')]
    assert starts == [21]


class SmallDisk:
    """A file that takes so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, 'No space left on device')
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def close(self):
        self.file.close()


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger('diffusion_jax'), 'propagate', True)
    with MetricsWriter(tmp_path) as writer:
        for file in (writer._lines, writer._events):
            file._file = SmallDisk(file._file, room=50)
        for step in range(1, 5):
            writer.scalars(step, {'loss': 1.0})
        assert [json.loads(line)['step'] for line in half_lines(tmp_path)] == [1]
        assert not writer.flush()
        names = [record.getMessage().split(': ')[0] for record in caplog.records]
        assert [name.split('/')[-1][:7] for name in names] == ['events.', 'metrics']
        for file in (writer._lines, writer._events):
            file._file.room = 10**6
        assert writer.flush()
        writer.scalars(5, {'loss': 1.0})
    assert [line['step'] for line in read_lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert [e.step for e in read_events(tmp_path) for v in e.summary.value] == [1, 2, 3, 4, 5]


def half_lines(directory):
    return (directory / METRICS_FILE).read_text().splitlines()[:-1]


def test_half_a_line_at_the_resumed_step_is_dropped(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 10}\n{"step": 2')
    with MetricsWriter(tmp_path, resume_step=100) as writer:
        writer.scalars(110, {})
    assert [line['step'] for line in read_lines(tmp_path)] == [10, 110]


def test_what_is_logged_at_a_step(tmp_path):
    assert names_at(tmp_path, 2) == set()
    with MetricsWriter(tmp_path) as writer:
        for step, name in ((1, 'loss'), (2, 'loss'), (2, 'time/grid_s')):
            writer.scalars(step, {name: 1.0})
    with open(tmp_path / METRICS_FILE, 'a') as file:
        file.write('{"step": 2, "half": 1.0')
    assert names_at(tmp_path, 2) == {'step', 'loss', 'time/grid_s'}
    assert names_at(tmp_path, 1) == {'step', 'loss'}
