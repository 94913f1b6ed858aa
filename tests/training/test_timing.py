import jax
import pytest

from diffusion_jax.training.timing import Profiler, Timer, memory


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_where_the_time_goes():
    clock = Clock()
    timer = Timer(32, clock=clock)

    def step(wait, work):
        with timer.spending('waiting'):
            clock.now += wait
        clock.now += work
        timer.count_step({})

    step(5, 20)  # compiles
    for _ in range(3):
        step(1, 3)
    with timer.spending('paused'):
        clock.now += 100
    assert timer.flush() == {
        'time/compile_s': 20,
        'time/step_s': 4,
        'time/images_per_s': 8,
        'time/data_wait': 0.25,
        'time/aside_s': 100,
    }
    step(0, 2)
    assert timer.flush() == {
        'time/step_s': 2,
        'time/images_per_s': 16,
        'time/data_wait': 0,
        'time/aside_s': 0,
    }


def test_the_share_of_the_peak():
    clock = Clock()
    timer = Timer(32, 0.5, clock)
    for seconds in (20, 1, 3):
        with timer.spending('waiting'):
            clock.now += seconds / 2  # to wait is no work
        clock.now += seconds / 2
        timer.count_step({})
    assert timer.flush()['time/peak_share'] == 0.25


def test_a_run_of_one_step_has_no_speed():
    timer = Timer(32)
    timer.count_step({})
    assert timer.flush().keys() == {'time/compile_s', 'time/aside_s'}


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


@pytest.mark.parametrize(
    ('stats', 'expected'),
    [
        ([None, None], {}),
        ([{'bytes_in_use': 1, 'peak_bytes_in_use': 9}] * 2, {'memory/bytes': 1, 'memory/peak_bytes': 9}),
        (
            [{'bytes_in_use': 3, 'peak_bytes_in_use': 5}, {'bytes_in_use': 4, 'peak_bytes_in_use': 4}],
            {'memory/bytes': 4, 'memory/peak_bytes': 5},
        ),
        ([{'bytes_in_use': 3}], {'memory/bytes': 3}),
    ],
)
def test_memory_is_that_of_the_fullest_device(stats, expected):
    assert memory([Device(each) for each in stats]) == expected


class Trace:
    """Replaces jax.profiler: the calls, and the one that fails."""

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
            profiler.call(trace.step, lambda: ())


@pytest.mark.parametrize(
    ('steps', 'first', 'last', 'calls'),
    [
        ((2, 3), 1, 6, [('start', 2), ('stop', 3)]),
        ((2, 2), 1, 6, [('start', 2), ('stop', 2)]),
        ((2, 5), 4, 6, [('start', 4), ('stop', 5)]),  # resumed between them
        ((5, 9), 1, 6, [('start', 5), ('stop', 6)]),  # stopped between them
        ((2, 3), 4, 6, []),
        ((), 1, 6, []),
    ],
)
def test_the_steps_that_are_traced(trace, tmp_path, steps, first, last, calls):
    train(trace, tmp_path, steps, first, last)
    assert trace.calls == calls


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
    (line,) = caplog.messages
    assert line.startswith(f'{tmp_path}: no trace (') and 'No space left on device' in line


def test_a_folder_that_cannot_be_made_costs_the_trace_alone(tmp_path, caplog):
    """With JAX itself, which keeps such a trace as one under way."""
    (tmp_path / 'file').write_text('')
    with Profiler((1, 1), tmp_path / 'file' / 'profile') as profiler:
        profiler.call(1, lambda: ())
    (tmp_path / 'file').unlink()
    jax.profiler.stop_trace()
    (line,) = caplog.messages
    assert line.startswith(f'{tmp_path}/file/profile: no trace (')
