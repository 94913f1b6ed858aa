"""Traces, that is whether there is one: what it holds is JAX's own."""

import logging

import jax
import pytest

from diffusion_jax.training.profiling import Profiler


class Trace:
    """In the place of jax.profiler: what was asked of it, and what it fails at."""

    def __init__(self, monkeypatch):
        self.calls, self.broken, self.step = [], '', 0
        monkeypatch.setattr(jax.profiler, 'start_trace', lambda directory: self.call('start'))
        monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: self.call('stop'))

    def call(self, name):
        self.calls.append((name, self.step))
        if name == self.broken:
            raise RuntimeError('RESOURCE_EXHAUSTED: No space left on device\nand more')


@pytest.fixture
def trace(monkeypatch):
    return Trace(monkeypatch)


def train(trace, directory, steps, first, last):
    """The loop, as far as it concerns a profiler."""
    with Profiler(steps, directory) as profiler:
        for trace.step in range(first, last + 1):
            profiler.before(trace.step)
            profiler.after(trace.step, ())


@pytest.mark.parametrize(
    ('steps', 'first', 'last', 'calls'),
    [
        ((2, 3), 1, 6, [('start', 2), ('stop', 3)]),
        ((2, 2), 1, 6, [('start', 2), ('stop', 2)]),
        ((2, 5), 4, 6, [('start', 4), ('stop', 5)]),  # goes on from between them
        ((5, 9), 1, 6, [('start', 5), ('stop', 6)]),  # is stopped between them
        ((2, 3), 4, 6, []),
        ((), 1, 6, []),
    ],
)
def test_the_steps_that_are_traced(trace, tmp_path, steps, first, last, calls):
    train(trace, tmp_path, steps, first, last)
    assert trace.calls == calls


def test_a_run_that_goes_on_beyond_the_steps_says_so_once(trace, tmp_path, caplog):
    caplog.set_level(logging.INFO, 'diffusion_jax')
    train(trace, tmp_path, (2, 3), 4, 6)
    assert caplog.messages == [f'{tmp_path}: no trace, since steps 2 to 3 are past']
    train(trace, tmp_path, (), 4, 6)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ('broken', 'steps', 'calls'),
    [
        ('start', (2, 3), [('start', 2)]),
        ('stop', (2, 3), [('start', 2), ('stop', 3)]),
        ('stop', (2, 9), [('start', 2), ('stop', 6)]),
    ],
)
def test_a_full_disk_costs_the_trace_alone(trace, tmp_path, caplog, broken, steps, calls):
    trace.broken = broken
    train(trace, tmp_path, steps, 1, 6)
    assert trace.calls == calls
    assert caplog.messages == [f'{tmp_path}: no trace (no space left on the device); training goes on']


def test_a_folder_that_cannot_be_made_costs_the_trace_alone(tmp_path, caplog):
    """With JAX itself, which keeps such a trace as one under way."""
    (tmp_path / 'file').write_text('')
    with Profiler((1, 1), tmp_path / 'file' / 'profile') as profiler:
        profiler.before(1)
        profiler.after(1, ())
    (tmp_path / 'file').unlink()
    jax.profiler.stop_trace()
    (line,) = caplog.messages
    assert line.startswith(f'{tmp_path}/file/profile: no trace (') and line.endswith('training goes on')
