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
from diffusion_jax.training.hooks import Hook, leave_if
from diffusion_jax.training.metrics import TooManySkipped
from diffusion_jax.training.profiling import Profiler
from diffusion_jax.training.step import skipped_steps
from tests.training.test_skipping import CONFIG, GOOD, NAN_LOSS, batch_of, compiled_step, start

LOGGED = dataclasses.replace(CONFIG, num_steps=6, log_every=3, checkpoint_every=0, max_skipped=3)


class Writer:
    def __init__(self):
        self.lines = {}

    def scalars(self, step, values):
        self.lines[step] = values

    def flush(self):
        pass


def run(
    bad, directory, config=LOGGED, hooks=(), stop=lambda: False, save=lambda *_: None, state=None, due=()
):
    """Trains with bad steps at these numbers; the last state, and what was logged."""
    batches = (batch_of(step, NAN_LOSS if step in bad else GOOD) for step in range(1, config.num_steps + 1))
    return run_on(batches, directory, config, hooks, stop, save, state, due)


def run_on(
    batches, directory, config=LOGGED, hooks=(), stop=lambda: False, save=lambda *_: None, state=None, due=()
):
    writer = Writer()
    state = loop.run(
        state or start(),
        compiled_step(),
        batches,
        config,
        save=save,
        sums={},
        hooks=hooks,
        due=due,
        on_line=lambda: None,
        writer=writer,
        profiler=Profiler(config.profile, directory),
        name='tiny',
        stop=stop,
    )
    return state, writer.lines


def test_a_skipped_step_is_counted_and_left_out_of_the_means(tmp_path):
    state, lines = run({2}, tmp_path)
    _, good = run(set(), tmp_path)
    assert skipped_steps(state) == 1
    assert [lines[step]['skipped_steps'] for step in (3, 6)] == [1, 1]
    assert [good[step]['skipped_steps'] for step in (3, 6)] == [0, 0]
    rates = [good[step]['learning_rate'] for step in (3, 6)]  # warming up over five steps
    np.testing.assert_allclose(rates, np.asarray([1 / 5, 4 / 5]) * LOGGED.learning_rate, rtol=1e-6)
    for values in (*lines.values(), *good.values()):
        assert all(np.isfinite(value) for value in values.values())
    passed_over, norms = start(), []
    for step in (1, 3):
        passed_over, metrics = compiled_step()(
            passed_over._replace(step=jnp.asarray(step - 1)), batch_of(step)
        )
        norms.append(float(metrics['grad_norm'][0]))
    assert lines[3]['grad_norm'] == np.mean(norms) != good[3]['grad_norm']


def test_a_line_without_any_good_step_says_so(tmp_path):
    _, lines = run({1, 2, 4}, tmp_path, dataclasses.replace(LOGGED, log_every=2))
    assert 'loss' not in lines[2] and lines[2]['skipped_steps'] == 2
    assert 'loss' in lines[4] and lines[4]['skipped_steps'] == 3


@pytest.mark.parametrize('log_every', [2, 6])
def test_training_stops_after_too_many_in_a_row(tmp_path, log_every):
    """Whenever it is noticed: the step that is named is the one that was too many, and nothing is saved."""
    config = dataclasses.replace(LOGGED, log_every=log_every)
    with pytest.raises(TooManySkipped, match='step 4 was the last of 3 in a row'):
        run({2, 3, 4}, tmp_path, config)
    run({2, 3, 5, 6}, tmp_path, config)


def test_no_checkpoint_is_written_among_skipped_steps(tmp_path):
    """Its parameters may be what makes them fail. It comes with the first good step, and at a stop anyway."""
    saved = []

    def save(state, sums, due):
        saved.append(int(state.step))

    config = dataclasses.replace(LOGGED, checkpoint_every=2)
    run({3, 4}, tmp_path, config, save=save)
    assert saved == [2, 5, 6]
    saved.clear()
    answers = iter([False, False, False, True])
    with pytest.raises(Interrupted, match='stopped at step 4'):
        run({3, 4}, tmp_path, config, save=save, stop=lambda: next(answers))
    assert saved == [2, 4]


def hook_of(events, name, every=2):
    """It asks whether to leave once, when its work is half done."""

    def call(step, state, stop):
        events.append(f'{name} {step}')
        leave_if(stop)
        return {f'{name}_number': step}

    return Hook(name, every, call)


def test_what_is_due_at_a_step_is_done_before_it_is_saved(tmp_path):
    """Whoever goes on from there would not do it."""
    events = []

    def save(state, sums, due):
        assert due == []
        events.append(f'save {state.step}')

    config = dataclasses.replace(LOGGED, checkpoint_every=4)
    _, lines = run(set(), tmp_path, config, hooks=[hook_of(events, 'look', 4)], save=save)
    assert events == ['look 4', 'save 4', 'look 6', 'save 6']
    assert lines[4] == {'look_number': 4, 'time/look_s': pytest.approx(0, abs=60)}


@pytest.mark.parametrize(
    ('asks', 'called', 'left'),
    [
        (2, [], ['one', 'two']),  # after step 2
        (3, [], ['one', 'two']),
        (4, ['one 2'], ['one', 'two']),
        (5, ['one 2'], ['two']),
        (6, ['one 2', 'two 2'], ['two']),
    ],
)
def test_a_stop_does_not_wait_for_what_is_due(tmp_path, asks, called, left):
    """What is left is done when the training goes on, before its next step, and may be stopped again."""
    events, saved = [], []
    hooks = [hook_of(events, 'one'), hook_of(events, 'two')]
    count = iter(range(1, 1000))
    with pytest.raises(Interrupted, match='tiny: stopped at step 2 of 6, which is saved'):
        run(
            set(),
            tmp_path,
            hooks=hooks,
            stop=lambda: next(count) >= asks,
            save=lambda state, sums, due: saved.append((jax.tree.map(jnp.copy, state), due)),
        )
    [(state, due)] = saved
    assert events == called and due == left and int(state.step) == 2

    events.clear()
    with pytest.raises(Interrupted, match='tiny: stopped at step 2 of 6'):
        run(set(), tmp_path, hooks=hooks, state=state, due=due, stop=lambda: True)
    assert events == []
    _, lines = run(set(), tmp_path, hooks=hooks, state=state, due=due)
    assert events == [*(f'{name} 2' for name in left), 'one 4', 'two 4', 'one 6', 'two 6']
    assert lines[2]['two_number'] == 2


def test_what_a_run_cost_is_logged(tmp_path):
    _, lines = run(set(), tmp_path)
    assert 'time/compile_s' in lines[3] and 'time/compile_s' not in lines[6]
    for values in lines.values():
        assert values['time/step_s'] > 0 and 0 < values['time/data_wait'] < 1
        images_per_s = CONFIG.batch_size / values['time/step_s']
        assert values['time/images_per_s'] == pytest.approx(images_per_s)


def test_steps_are_traced(tmp_path):
    run(set(), tmp_path, dataclasses.replace(LOGGED, profile=(2, 3)))
    assert list(tmp_path.rglob('*.xplane.pb'))


def test_a_trace_ends_with_the_run(tmp_path):
    with contextlib.suppress(TooManySkipped):
        run({1, 2, 3}, tmp_path, dataclasses.replace(LOGGED, profile=(2, 6)))
    assert list(tmp_path.rglob('*.xplane.pb'))
    jax.profiler.start_trace(tmp_path / 'another')  # an error where one is under way
    jax.profiler.stop_trace()


@pytest.mark.parametrize('bad', [1, 2, 5])
def test_an_error_of_the_batches_is_raised_after_saving(tmp_path, bad):
    saved = []

    def batches():
        for step in range(1, bad):
            yield batch_of(step)
        raise UnreadableImage('x.png: damaged')

    message = f'x.png: damaged; tiny: step {bad - 1} of 6 is saved' if bad > 1 else 'tiny: no step was done'
    with pytest.raises(UnreadableImage, match=message):
        run_on(batches(), tmp_path, save=lambda state, sums, due: saved.append((int(state.step), sums, due)))
    assert [(step, due) for step, _, due in saved] == ([(bad - 1, [])] if bad > 1 else [])
    if bad == 2:  # the metrics since the last line of the log
        assert saved[0][1]['loss'][1] > 0


def test_an_error_of_a_hook_is_raised_after_saving_and_leaves_the_hook_due(tmp_path):
    def fail(step, state, stop):
        raise UserError('y.png: damaged')

    saved, hooks = [], [hook_of([], 'one'), Hook('two', 2, fail)]
    with pytest.raises(UserError, match='y.png: damaged; tiny: step 2 of 6 is saved'):
        run(
            set(),
            tmp_path,
            hooks=hooks,
            save=lambda state, sums, due: saved.append((int(state.step), due)),
        )
    assert saved == [(2, ['one', 'two'])]
