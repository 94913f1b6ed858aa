import pytest

from diffusion_jax.training.timing import Timer, memory


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_where_the_time_goes():
    clock = Clock()
    timer = Timer(32, clock=clock)

    def step(wait, work):
        with timer.waiting():
            clock.now += wait
        clock.now += work
        timer.count_step({})

    step(5, 20)  # compiles
    for _ in range(3):
        step(1, 3)
    with timer.aside({}):
        clock.now += 100
    assert timer.take() == {
        'time/compile_s': 20,
        'time/step_s': 4,
        'time/images_per_s': 8,
        'time/data_wait': 0.25,
        'time/aside_s': 100,
    }
    step(0, 2)
    assert timer.take() == {
        'time/step_s': 2,
        'time/images_per_s': 16,
        'time/data_wait': 0,
        'time/aside_s': 0,
    }
    assert timer.summary() == ('compiled in 20.0 s; 3.5 s a step, 9.1 images/s, 21.4% of it waiting for data')


def test_the_share_of_the_peak():
    clock = Clock()
    timer = Timer(32, 0.5, clock)
    for seconds in (20, 1, 3):
        with timer.waiting():
            clock.now += seconds / 2  # to wait is no work
        clock.now += seconds / 2
        timer.count_step({})
    assert timer.take()['time/peak_share'] == 0.25
    assert timer.summary().endswith('50.0% of it waiting for data; 25.0% of the bfloat16 peak')


def test_a_run_of_one_step_has_no_speed():
    timer = Timer(32)
    timer.count_step({})
    assert timer.take().keys() == {'time/compile_s', 'time/aside_s'}
    assert timer.summary().startswith('compiled in 0.0 s')


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
