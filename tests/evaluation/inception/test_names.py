"""Folding of batch norms, against the batch norms; tests/parity/inception.py has complete state_dicts."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception import names


def test_a_folded_batch_norm_does_the_same():
    random = np.random.default_rng(0)
    weight = random.standard_normal((5, 3, 1, 1))
    gamma, beta, mean = random.standard_normal((3, 5))
    variance = random.uniform(0.1, 2, 5)
    state = {'a.conv.weight': weight, 'a.bn.weight': gamma, 'a.bn.bias': beta}
    state |= {'a.bn.running_mean': mean, 'a.bn.running_var': variance}
    kernel, bias = names.fold(state, 'a')
    assert kernel.shape == (1, 1, 3, 5) and kernel.dtype == bias.dtype == np.float32
    x = random.standard_normal((7, 3))
    expected = (x @ weight[:, :, 0, 0].T - mean) / np.sqrt(variance + 0.001) * gamma + beta
    np.testing.assert_allclose(x @ kernel[0, 0] + bias, expected, atol=1e-6)


@pytest.mark.parametrize('wrong', ['missing', 'shape'])
def test_other_state_dicts_are_refused(wrong):
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in names.state_shapes().items()}
    if wrong == 'missing':
        del state['Mixed_6b.branch1x1.bn.bias']
        message = 'Mixed_6b.branch1x1.bn.bias is missing'
    else:
        state['fc.weight'] = np.zeros((1000, 2048), np.float32)
        message = r'fc.weight has the shape \(1000, 2048\), not \(1008, 2048\)'
    with pytest.raises(UserError, match=message):
        names.params_from_state(state)
