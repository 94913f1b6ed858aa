"""The whole way with real files of PyTorch: `make test-convert` runs it; elsewhere stand-ins have to do."""

import numpy as np
import pytest

from diffusion_jax.commands import convert, export
from diffusion_jax.config import read_experiment
from diffusion_jax.main import parse_flags
from diffusion_jax.weights.reference import reference_shapes
from tests.test_config import CONFIGS

torch = pytest.importorskip('torch')
DIGITS = CONFIGS / 'digits.py'
WIDER = '--config.unet.model_channels=64'


def run(command, *arguments):
    return command.main([f'diffusion-jax {command.__name__}', *map(str, arguments)])


@pytest.mark.parametrize('kind', ['unet', 'classifier'])
def test_there_and_back(tmp_path, kind):
    experiment = read_experiment(parse_flags(['test', f'--config={DIGITS}', WIDER]).config)
    rng = np.random.default_rng(0)
    shapes = reference_shapes(getattr(experiment, kind))
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    torch.save({key: torch.from_numpy(array) for key, array in state.items()}, tmp_path / 'in.pt')
    network = ['--network=classifier'] if kind == 'classifier' else []
    own, back = tmp_path / 'own.safetensors', tmp_path / 'back.pt'
    assert run(convert, tmp_path / 'in.pt', '--out', own, f'--config={DIGITS}', WIDER, *network) == 0
    assert run(export, own, '--out', back) == 0
    arrays = torch.load(back, weights_only=True)
    assert list(arrays) == list(state)
    for key, array in state.items():
        np.testing.assert_array_equal(arrays[key].numpy(), array)
