import threading
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.errors import UserError
from diffusion_jax.report import MetricsWriter
from diffusion_jax.stages import train
from diffusion_jax.stages.fit import Training, explain_divergence, hooks_left, training_data
from diffusion_jax.training.metrics import TooManySkipped
from diffusion_jax.training.objectives import Objective, draw_noise
from tests.program import arguments
from tests.stages.runs import make_run


@pytest.mark.slow
def test_training_that_does_not_get_ahead_names_the_way_out(tmp_path, monkeypatch, capfd):
    """From step 3 on no loss is a number: Adam moves every parameter by about the learning rate a step."""

    def losses(params, inputs, key):
        moved = params['conv_out']['bias'][0]
        loss = jnp.where(jnp.abs(moved) > 1.5 * 1e-3, jnp.nan, moved)
        return {'loss': jnp.broadcast_to(loss, inputs['t'].shape)}

    objective = Objective(draw_noise, losses, num_timesteps=50)
    monkeypatch.setattr(train, 'diffusion_objective', lambda *_: objective)
    settings = {'max_skipped': 3, 'log_every': 1, 'checkpoint_every': 2, 'sample_every': 0, 'profile': '3,3'}
    changes = {f'train__{name}': value for name, value in settings.items()}
    assert main.main(arguments(tmp_path, 'train', **changes)) == 2
    folder = tmp_path / 'diffusion'
    said = capfd.readouterr().err.splitlines()[-1]
    assert 'step 5' in said and f'{folder}/checkpoints/2' in said
    assert (folder / 'checkpoints' / '2').is_dir()
    assert list((folder / 'profile').rglob('*.xplane.pb'))


def test_batches_are_made_and_placed_ahead_of_the_step():
    placed = []

    def place(batch):
        placed.append(batch)
        return threading.current_thread(), batch

    data = training_data(make_run(), 'diffusion', place)
    thread, batch = next(data)
    assert thread is not threading.main_thread()
    deadline = time.monotonic() + 10
    while len(placed) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead, position = placed[1], data.get_state()
    np.testing.assert_array_equal(next(data)[1]['image'], ahead['image'])
    assert (batch['image'] != ahead['image']).any()
    data.set_state(position)  # counts what was asked for, not what was made
    np.testing.assert_array_equal(next(data)[1]['image'], ahead['image'])


@pytest.mark.parametrize(('name', 'stage'), [('diffusion', 'train'), ('classifier', 'train_classifier')])
@pytest.mark.parametrize(('size', 'said'), [(16, None), (3000, '2 times'), (2000, '1.33 times')])
def test_a_batch_larger_than_the_data_is_reported(caplog, name, stage, size, said):
    caplog.set_level('INFO')
    training_data(make_run(**{f'{stage}__batch_size': size}), name, lambda batch: batch)
    lines = [line for line in caplog.messages if 'batch_size' in line]
    assert len(lines) == (said is not None)
    assert said is None or (f'config.{stage}.batch_size is {size}' in lines[0] and said in lines[0])


@pytest.mark.parametrize('step', [None, 0, 2])
def test_divergence_names_the_last_good_checkpoint(tmp_path, step):
    folder = tmp_path / 'diffusion'
    checkpoints = SimpleNamespace(latest_step=step, directory=folder / 'checkpoints')
    with pytest.raises(UserError) as error, explain_divergence(folder, checkpoints):
        raise TooManySkipped('step 5')
    assert error.value.where == str(folder) and 'step 5' in error.value.problem
    assert (f'{folder}/checkpoints/{step}' in error.value.problem) == (step is not None)
    start = f'--stage=train --config.pretrained.diffusion={folder}'
    assert (start in error.value.remedy) == (step is not None)


def test_what_is_left_of_a_step_is_what_the_log_does_not_have(tmp_path):
    intervals = {'grid': 5, 'evaluation': 10, 'validation': 0}
    training = Training(tmp_path, None, None, None, {}, intervals)
    progress = {'due': ['grid', 'evaluation', 'validation']}
    assert hooks_left(training, 10, {}) == []
    assert hooks_left(training, 10, progress) == ['grid', 'evaluation']  # the third is not wanted any more
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(5, {'time/evaluation_s': 1.0})
        writer.scalars(10, {'loss': 1.0})
        writer.scalars(10, {'time/grid_s': 1.0})
    assert hooks_left(training, 10, progress) == ['evaluation']
