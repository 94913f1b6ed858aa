import threading
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.data.sources import make_source
from diffusion_jax.errors import UserError
from diffusion_jax.stages import train
from diffusion_jax.stages.fit import training_data, way_out_named
from diffusion_jax.training.metrics import TooManySkipped
from diffusion_jax.training.objectives import Objective, draw_noise
from tests.program import arguments


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
    assert (
        f'error: {folder}: the loss or gradient of the 3 steps up to step 5 is not finite; the last '
        f'good checkpoint is of step 2, {folder}/checkpoints/2; start from it in another --workdir, by '
        f'--stage=train --config.pretrained.diffusion={folder}, with a smaller'
    ) in capfd.readouterr().err
    assert (folder / 'checkpoints' / '2').is_dir()
    assert list((folder / 'profile').rglob('*.xplane.pb'))


def test_batches_are_made_and_placed_ahead_of_the_step():
    config = main.parse_flags(arguments('unused')).config
    experiment, placed = main.read_experiment(config), []

    def place(batch):
        placed.append(batch)
        return threading.current_thread(), batch

    data = training_data(experiment, 'diffusion', make_source(experiment.data, 'train'), place)
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
@pytest.mark.parametrize(('size', 'said'), [(16, None), (3000, '2 times'), (2000, 'about 1.33 times')])
def test_a_batch_larger_than_the_data_is_reported(caplog, name, stage, size, said):
    config = main.parse_flags(arguments('unused', **{f'{stage}__batch_size': size})).config
    caplog.set_level('INFO')
    experiment = main.read_experiment(config)
    training_data(experiment, name, make_source(experiment.data, 'train'), lambda batch: batch)
    lines = [line for line in caplog.messages if 'batch_size' in line]
    assert len(lines) == (said is not None)
    assert said is None or (f'config.{stage}.batch_size is {size}' in lines[0] and said in lines[0])


def test_before_the_first_checkpoint_the_way_out_is_the_start(tmp_path):
    with (
        pytest.raises(UserError, match='there is no checkpoint yet; start anew in another --workdir, with'),
        way_out_named(tmp_path / 'diffusion', SimpleNamespace(latest_step=None)),
    ):
        raise TooManySkipped('step 3')
