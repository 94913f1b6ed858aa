"""Samples that are not finite: no shard holds them, and training continues without the grid or evaluation."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.generation.shards import draw_samples
from diffusion_jax.models import param_shapes
from diffusion_jax.report import Progress
from diffusion_jax.stages import train
from diffusion_jax.stages.sample import draw_while_training, make_conditioning
from tests.stages.runs import make_run
from tests.training.states import said


def overflow(index):
    raise NotFinite('samples', '1 of 4 images (index 4) are not finite', 'lower scale')


def test_no_shard_is_written_of_them(tmp_path):
    def draw(index):
        return (np.zeros((4, 8, 8, 1), np.uint8), index) if index[0] == 0 else overflow(index)

    with pytest.raises(NotFinite, match='index 4'):
        draw_samples(tmp_path, Progress('samples', 8), draw, 8, 4, lambda: False)
    assert [path.name for path in (tmp_path / 'shards').iterdir()] == ['00000000-00000004.npz']


@pytest.mark.parametrize('name', ['grid', 'evaluation'])
def test_training_reports_them_and_continues(name, tmp_path, caplog):
    run = make_run(tmp_path, sample__num_samples=16)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), param_shapes(run.experiment.unet))
    state = SimpleNamespace(ema={}, params=params)
    hooks = {hook.name: hook for hook in train.make_hooks(run, None)}
    assert hooks[name].call(3, state, lambda: False) == {}
    (line,) = [text for text in said(caplog) if 'not finite' in text]
    assert str(tmp_path / 'diffusion') in line and 'at step 3' in line and 'index' in line
    assert not (tmp_path / 'diffusion' / 'grids').exists()
    average = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    state = SimpleNamespace(ema={'0.995': average}, params=params)  # samples come from the average
    images, labels = draw_while_training(run, state, make_conditioning(run), np.arange(16))
    assert images.shape == (16, 8, 8, 1)
    np.testing.assert_array_equal(labels, np.arange(16) % 10)
