"""The loop around the smallest of steps."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.training import loop
from diffusion_jax.training.loop import Hook, leave_if
from diffusion_jax.training.metrics import TooManySkipped
from diffusion_jax.training.step import skipped_steps
from diffusion_jax.training.timing import Profiler, Timer
from tests.training.test_skipping import CONFIG, GOOD, NAN_LOSS, batch_of, compiled_step, start

LOGGED = dataclasses.replace(CONFIG, num_steps=6, log_every=3, checkpoint_every=0, max_skipped=3)


class Log:
    """What was saved and logged, in this order, and lines by step."""

    def __init__(self):
        self.events, self.lines, self.saved = [], {}, {}

    def scalars(self, step, values):
        self.events.append(f'log {step}')
        self.lines[step] = values

    def save(self, state, sums):
        step = int(state.step)
        if step not in self.saved:
            self.events.append(f'save {step}')
            self.saved[step] = jax.tree.map(jnp.copy, state), sums


def place(batch):
    return jax.device_put(batch)


def run(directory, config=LOGGED, bad=(), log=None, state=None, batches=None, hooks=(), stop=None, sums=()):
    """Trains with bad steps of these numbers; the last state, and the log."""
    log, first = log or Log(), int(state.step) + 1 if state else 1
    if batches is None:
        batches = (batch_of(n, NAN_LOSS if n in bad else GOOD) for n in range(first, config.num_steps + 1))
    calls = loop.Calls(
        save=log.save,
        poll=lambda: None,
        stop=stop or (lambda: False),
        hooks=hooks,
        writer=log,
        timer=Timer(config.batch_size),
        profiler=Profiler(config.profile, directory),
    )
    state = start() if state is None else state
    step, batches = compiled_step(), map(place, batches)
    with jax.transfer_guard('disallow'):
        return loop.run(state, step, batches, config, calls, name='tiny', sums=dict(sums)), log


def test_a_skipped_step_is_counted_and_left_out_of_the_means(tmp_path):
    state, log = run(tmp_path, bad={2})
    lines, good = log.lines, run(tmp_path)[1].lines
    assert skipped_steps(state) == 1
    assert [lines[step]['skipped_steps'] for step in (3, 6)] == [1, 1]
    assert [good[step]['skipped_steps'] for step in (3, 6)] == [0, 0]
    rates = [good[step]['learning_rate'] for step in (3, 6)]  # warming up over five steps
    np.testing.assert_allclose(rates, np.asarray([1 / 5, 4 / 5]) * LOGGED.learning_rate, rtol=1e-6)
    for values in (*lines.values(), *good.values()):
        assert all(np.isfinite(value) for value in values.values())
    without, norms = start(), []
    for step in (1, 3):
        without, metrics = compiled_step()(without._replace(step=jnp.asarray(step - 1)), batch_of(step))
        norms.append(float(metrics['grad_norm'][0]))
    assert lines[3]['grad_norm'] == np.mean(norms) != good[3]['grad_norm']


def test_a_line_without_any_good_step(tmp_path):
    lines = run(tmp_path, dataclasses.replace(LOGGED, log_every=2), bad={1, 2, 4})[1].lines
    assert 'loss' not in lines[2] and lines[2]['skipped_steps'] == 2
    assert 'loss' in lines[4] and lines[4]['skipped_steps'] == 3


@pytest.mark.parametrize('log_every', [2, 6])
def test_training_stops_after_too_many_skipped_steps_in_a_row(tmp_path, log_every):
    """The error names the step that was too many, whenever it is noticed, and nothing is saved."""
    config, log = dataclasses.replace(LOGGED, log_every=log_every), Log()
    with pytest.raises(TooManySkipped, match='the 3 steps up to step 4'):
        run(tmp_path, config, bad={2, 3, 4}, log=log)
    assert not log.saved
    run(tmp_path, config, bad={2, 3, 5, 6})


def test_no_checkpoint_is_written_among_skipped_steps(tmp_path):
    """It comes with the first good step, at the last step and at a stop."""
    config = dataclasses.replace(LOGGED, checkpoint_every=2)
    assert list(run(tmp_path, config, bad={3, 4})[1].saved) == [2, 5, 6]
    assert list(run(tmp_path, config, bad={3, 4, 6})[1].saved) == [2, 5, 6]
    answers, log = iter([False, False, False, True]), Log()
    with pytest.raises(Interrupted, match='stopped at step 4'):
        run(tmp_path, config, bad={3, 4}, stop=lambda: next(answers), log=log)
    assert list(log.saved) == [2, 4]


def hook_of(log, name, every=2):
    """Its work has two halves, between which it may be stopped."""

    def call(step, state, stop):
        log.events.append(f'{name} {step}')
        leave_if(stop)
        return {f'{name}_number': step}

    return Hook(name, every, call)


def test_a_step_is_saved_then_hooks_are_called_then_it_is_logged(tmp_path):
    log, config = Log(), dataclasses.replace(LOGGED, checkpoint_every=4)
    run(tmp_path, config, hooks=[hook_of(log, 'look', 4), hook_of(log, 'never', 0)], log=log)
    assert log.events == ['log 3', 'save 4', 'look 4', 'log 4', 'save 6', 'look 6', 'log 6']
    assert log.lines[4] == {'look_number': 4, 'time/look_s': pytest.approx(0, abs=60)}
    assert {'loss', 'look_number'} < set(log.lines[6])


def test_the_last_step_is_logged(tmp_path):
    log = run(tmp_path, dataclasses.replace(LOGGED, num_steps=5))[1]
    assert list(log.lines) == [3, 5] and list(log.saved) == [5]


@pytest.mark.parametrize(
    ('asks', 'called'), [(3, []), (4, []), (5, ['one 3']), (6, ['one 3']), (7, ['one 3', 'two 3'])]
)
def test_a_stopped_step_is_finished_by_the_resumed_run(tmp_path, asks, called):
    """Whether it is stopped after the step, before a hook or within one, the logs come out the same."""
    config = dataclasses.replace(LOGGED, checkpoint_every=4)
    whole, log, count = Log(), Log(), iter(range(1, 1000))
    run(tmp_path, config, hooks=[hook_of(whole, name, 3) for name in ('one', 'two')], log=whole)
    hooks = [hook_of(log, name, 3) for name in ('one', 'two')]
    with pytest.raises(Interrupted, match='tiny: stopped at step 3 of 6, which is saved'):
        run(tmp_path, config, hooks=hooks, stop=lambda: next(count) >= asks, log=log)
    assert log.events == [*called, 'save 3'] and not log.lines
    state, sums = log.saved[3]
    again = jax.tree.map(jnp.copy, state)
    with pytest.raises(Interrupted, match='tiny: stopped at step 3 of 6'):
        run(tmp_path, config, hooks=hooks, state=again, sums=sums, stop=lambda: True, log=log)
    log.events.clear()
    run(tmp_path, config, hooks=hooks, state=state, sums=sums, log=log)
    assert log.events == whole.events
    for step, values in whole.lines.items():
        assert without_times(log.lines[step]) == without_times(values)


def without_times(values):
    return {name: value for name, value in values.items() if '/' not in name}


def test_the_hooks_of_the_last_step_are_finished_by_the_resumed_run(tmp_path):
    log, asked = Log(), []
    hooks = [hook_of(log, 'one', 6)]
    with pytest.raises(Interrupted, match='step 6 of 6'):
        run(tmp_path, hooks=hooks, log=log, stop=lambda: 'one 6' in log.events)
    state, sums = log.saved[6]
    log.events.clear()
    run(tmp_path, hooks=hooks, log=log, state=state, sums=sums, batches=iter(asked))
    assert log.events == ['one 6', 'log 6'] and log.lines[6]['loss'] > 0


def test_what_a_run_cost_is_logged(tmp_path):
    lines = run(tmp_path)[1].lines
    assert 'time/compile_s' in lines[3] and 'time/compile_s' not in lines[6]
    for values in lines.values():
        assert values['time/step_s'] > 0 and 0 < values['time/data_wait'] < 1
        images_per_s = CONFIG.batch_size / values['time/step_s']
        assert values['time/images_per_s'] == pytest.approx(images_per_s)


def test_steps_are_traced(tmp_path):
    run(tmp_path, dataclasses.replace(LOGGED, profile=(2, 3)))
    assert list(tmp_path.rglob('*.xplane.pb'))


def test_a_trace_ends_with_the_run(tmp_path):
    with contextlib.suppress(TooManySkipped):
        run(tmp_path, dataclasses.replace(LOGGED, profile=(2, 6)), bad={1, 2, 3})
    assert list(tmp_path.rglob('*.xplane.pb'))
    jax.profiler.start_trace(tmp_path / 'another')  # an error if one is under way
    jax.profiler.stop_trace()


@pytest.mark.parametrize('bad', [1, 2, 5])
def test_an_error_of_the_batches_is_raised_after_saving(tmp_path, bad, caplog):
    def batches():
        for step in range(1, bad):
            yield batch_of(step)
        raise UnreadableImage('x.png', 'damaged')

    log = Log()
    caplog.set_level('INFO')
    with pytest.raises(UnreadableImage):
        run(tmp_path, batches=batches(), log=log)
    assert list(log.saved) == ([bad - 1] if bad > 1 else [])
    assert [f'step {bad - 1} of 6' in line for line in caplog.messages] == [True] * (bad > 1)
    if bad == 2:  # the metrics since the last line of the log
        assert log.saved[1][1]['loss'][1] > 0


def test_an_error_of_a_hook_is_raised_after_saving(tmp_path):
    def fail(step, state, stop):
        raise UserError('y.png', 'damaged')

    log = Log()
    with pytest.raises(UserError) as error:
        run(tmp_path, hooks=[hook_of(log, 'one'), Hook('two', 2, fail)], log=log)
    assert error.value.where == 'y.png'
    assert log.events == ['one 2', 'save 2']
