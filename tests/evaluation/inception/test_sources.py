"""Released files: their kinds, what is wrong with others, and folding. The real files are not available."""

import io
import zipfile

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception import sources
from diffusion_jax.evaluation.inception.sources import read_inception, state_shapes
from tests.evaluation.inception.foreign import graph_of, random_state, tiny_shapes

TINY = random_state(tiny_shapes())
# How torch.save begins a file in the format before PyTorch 1.6.
LEGACY = bytes.fromhex('80028a0a6cfc9c46f9206aa850192e')


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name in names:
            archive.writestr(name, b'')
    return buffer.getvalue()


@pytest.fixture
def state(monkeypatch):
    """What any file of PyTorch holds."""
    state = random_state(state_shapes())
    monkeypatch.setattr(sources, 'read_state', lambda path: state)
    return state


@pytest.mark.parametrize(
    'content',
    [graph_of(TINY).SerializeToString(), LEGACY, zipped('pt_inception/data.pkl', 'pt_inception/data/0')],
    ids=['graph', 'pytorch before 1.6', 'pytorch'],
)
def test_the_kind_of_file_is_detected_from_its_content(tmp_path, monkeypatch, content):
    """All are read to the end: the first error is the shape of an array."""
    monkeypatch.setattr(sources, 'read_state', lambda path: TINY)
    (tmp_path / 'file').write_bytes(content)
    with pytest.raises(UserError, match=r'Conv2d_1a_3x3.conv.weight.*\(2, 1, 1, 3\)') as error:
        read_inception(tmp_path / 'file')
    assert error.value.where == str(tmp_path / 'file') and 'pt_inception' in error.value.remedy


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (b'', 'released'),
        (b'\x1f\x8b\x08 a .tgz', 'compressed'),
        (b'\nnoise', 'graph'),
        (b'\x40\0\0\0\0\0\0\0{"__metadata__":{}}', 'released'),
        (None, 'No such file'),
    ],
)
def test_other_files_are_refused(tmp_path, content, problem):
    if content is not None:
        (tmp_path / 'file').write_bytes(content)
    with pytest.raises(UserError) as error:
        read_inception(tmp_path / 'file')
    assert error.value.where == str(tmp_path / 'file') and problem in error.value.problem
    assert 'classify_image_graph_def.pb' in error.value.remedy and '\n' not in str(error.value)


def test_weights_that_are_not_finite_are_named(tmp_path, state):
    key = 'Mixed_7a.branch3x3_1.bn.running_var'
    state[key] = -state[key]
    (tmp_path / 'weights.pth').write_bytes(LEGACY)
    with pytest.raises(UserError, match='weights.pth: .*Mixed_7a/branch3x3_1/'):
        read_inception(tmp_path / 'weights.pth')


def test_a_missing_array_is_named(tmp_path, state):
    del state['fc.weight']
    (tmp_path / 'weights.pth').write_bytes(LEGACY)
    with pytest.raises(UserError, match='weights.pth: .*fc.weight'):
        read_inception(tmp_path / 'weights.pth')


def test_a_folded_batch_norm_computes_the_same():
    random = np.random.default_rng(0)
    weight = random.standard_normal((5, 3, 1, 1))
    gamma, beta, mean = random.standard_normal((3, 5))
    variance = random.uniform(0.1, 2, 5)
    state = {'a.conv.weight': weight, 'a.bn.weight': gamma, 'a.bn.bias': beta}
    state |= {'a.bn.running_mean': mean, 'a.bn.running_var': variance}
    kernel, bias = sources.fold(state, 'a')
    assert kernel.shape == (1, 1, 3, 5) and kernel.dtype == bias.dtype == np.float32
    x = random.standard_normal((7, 3))
    expected = (x @ weight[:, :, 0, 0].T - mean) / np.sqrt(variance + 0.001) * gamma + beta
    np.testing.assert_allclose(x @ kernel[0, 0] + bias, expected, atol=1e-6)
