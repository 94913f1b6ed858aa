import errno
import io
import json
import math
import re
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from diffusion_jax.errors import UserError
from diffusion_jax.report import METRICS_FILE, MetricsWriter, Progress, last_logged_step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream):
    """What a bar showed: every state, without times and rates."""
    states = re.split('[\r\n]+', stream.getvalue().strip())
    return [re.sub(r'\d\d:\d\d<[^,]*, [^,\]]*', '', state).strip() for state in states]


def test_lines_without_a_terminal(monkeypatch):
    monkeypatch.setattr('sys.stderr', stream := io.StringIO())
    with Progress('train', 40, unit='steps', interval=0).begin(10) as progress:
        progress.update(20, {'loss': 0.25, 'images/s': 1234.5})
        progress.update(40)
    assert shown(stream)[:3] == [
        'train  25%  10/40  []',
        'train  50%  20/40  [, loss=0.25, images/s=1,234]',
        'train 100%  40/40  []',
    ]
    assert 'steps/s' in stream.getvalue() and '\r' not in stream.getvalue()


def test_lines_come_now_and_then(monkeypatch):
    monkeypatch.setattr('sys.stderr', stream := io.StringIO())
    with Progress('train', 40, interval=600) as progress:
        for step in range(40):
            progress.update(step)
    assert shown(stream) == ['train   0%  0/40  []', 'train  98%  39/40  []']


def test_a_line_on_a_terminal_is_redrawn(monkeypatch):
    monkeypatch.setattr('sys.stderr', stream := Terminal())
    with Progress('sample', 100) as progress:
        progress.update(50)
    assert stream.getvalue().startswith('\r') and stream.getvalue().count('\n') == 1
    assert '50/100' in stream.getvalue()


def test_steps_within_a_batch_count_as_parts_of_images(monkeypatch):
    monkeypatch.setattr('sys.stderr', stream := io.StringIO())
    with Progress('samples', 300, interval=0).begin(100) as progress:
        progress.within(50, 250, 100)
        progress.update(200)
        progress.within(3, 4, 200)  # the last batch is padded
    states = [state.split()[2] for state in shown(stream)]
    assert states[:4] == ['100/300', '120/300', '200/300', '300/300']


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


class SmallDisk(io.RawIOBase):
    """A file that accepts `room` bytes."""

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


def test_metrics_that_a_full_disk_does_not_accept_are_written_later(tmp_path, caplog):
    with MetricsWriter(tmp_path) as writer:
        writer._file = SmallDisk(writer._file, room=50)
        for step in range(1, 5):
            writer.scalars(step, {'loss': 1.0})
        assert [json.loads(line)['step'] for line in half_lines(tmp_path)] == [1]
        writer.flush()
        (message,) = caplog.messages
        assert METRICS_FILE in message
        writer._file.room = 10**6
        writer.flush()
        assert [line['step'] for line in read_lines(tmp_path)] == [1, 2, 3, 4]
        writer.scalars(5, {'loss': 1.0})
    assert [line['step'] for line in read_lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_metrics_are_written_when_event_files_cannot_be(tmp_path, caplog):
    def write(event):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with MetricsWriter(tmp_path) as writer:
        writer._events.write_event = write
        for step in (1, 2):
            writer.scalars(step, {'loss': 1.0})
        writer.flush()
    assert [line['step'] for line in read_lines(tmp_path)] == [1, 2]
    (message,) = caplog.messages
    assert 'No space left on device' in message


def half_lines(directory):
    return (directory / METRICS_FILE).read_text().splitlines()[:-1]


def test_half_a_line_at_the_resumed_step_is_dropped(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 10}\n{"step": 2')
    with MetricsWriter(tmp_path, resume_step=100) as writer:
        writer.scalars(110, {})
    assert [line['step'] for line in read_lines(tmp_path)] == [10, 110]


def test_the_last_logged_step(tmp_path):
    assert last_logged_step(tmp_path) == 0
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20):
            writer.scalars(step, {'loss': 1.0})
    with open(tmp_path / METRICS_FILE, 'a') as file:
        file.write('{"step": 30, "half": 1.0')
    assert last_logged_step(tmp_path) == 20


def test_a_line_that_is_no_metrics_is_named(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 10}\ngarbage\n')
    with pytest.raises(UserError) as error:
        MetricsWriter(tmp_path, resume_step=100)
    assert error.value.where == str(tmp_path / METRICS_FILE) and 'garbage' in error.value.problem
