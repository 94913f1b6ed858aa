"""What kind of file it is, and what is wrong with it. The real files are not here."""

import io
import zipfile

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception import sources
from diffusion_jax.evaluation.inception.names import state_shapes
from diffusion_jax.evaluation.inception.sources import read_inception
from tests.evaluation.inception.foreign import graph_of, pickle_of, random_state, tiny_shapes, torchscript_of

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
    """Of whatever is a file of PyTorch."""
    state = random_state(state_shapes())
    monkeypatch.setattr(sources, 'read_state', lambda path: state)
    return state


@pytest.mark.parametrize(
    'content',
    [
        graph_of(TINY).SerializeToString(),
        torchscript_of(TINY),
        pickle_of(TINY),
        LEGACY,
        zipped('pt_inception/data.pkl', 'pt_inception/data/0'),
    ],
    ids=['graph', 'torchscript', 'pickle', 'pytorch before 1.6', 'pytorch'],
)
def test_the_content_says_what_kind_of_file_it_is(tmp_path, monkeypatch, content):
    """All are read to the end; arrays of another shape are the first thing that is wrong with them."""
    monkeypatch.setattr(sources, 'read_state', lambda path: TINY)
    (tmp_path / 'file').write_bytes(content)
    message = 'not Inception v3 .*Conv2d_1a_3x3.conv.weight has the shape .2, 1, 1, 3., not .32.*; give pt_'
    with pytest.raises(UserError, match=message) as error:
        read_inception(tmp_path / 'file')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is none of the files'),
        (b'\x1f\x8b\x08 a .tgz', 'is packed; unpack it'),
        (zipped('arr_0.npy', 'mu.npy'), 'is none of the files'),
        (b'\x80\x04\x95', 'cannot be read .EOFError|cannot be read .UnpicklingError'),
        (b'\nnoise', 'no frozen graph'),
        (torchscript_of(TINY)[:-9], 'is an archive that is not whole'),
        (zipped('a/constants.pkl'), 'cannot be read .ValueError'),
        (b'\x40\0\0\0\0\0\0\0{"__metadata__":{}}', 'is a safetensors file, as this command writes them'),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    (tmp_path / 'file').write_bytes(content)
    with pytest.raises(UserError, match=f'file: ({message})') as error:
        read_inception(tmp_path / 'file')
    assert '\n' not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path, message in ((tmp_path / 'nothing', 'No such file'), (tmp_path, 'Is a directory')):
        with pytest.raises(UserError, match=f'{path}: cannot be read .{message}.*; give pt_inception'):
            read_inception(path)


def test_weights_that_are_not_finite_are_named(tmp_path, state):
    key = 'Mixed_7a.branch3x3_1.bn.running_var'
    state[key] = -state[key]
    (tmp_path / 'weights.pth').write_bytes(LEGACY)
    with pytest.raises(UserError, match='weights.pth: Mixed_7a/branch3x3_1/.* is not finite'):
        read_inception(tmp_path / 'weights.pth')


def test_an_array_that_is_missing_is_named(tmp_path, state):
    del state['fc.weight']
    (tmp_path / 'weights.pth').write_bytes(LEGACY)
    with pytest.raises(
        UserError, match=r'weights.pth: is not Inception v3 .*fc.weight is missing.; give pt_inception'
    ):
        read_inception(tmp_path / 'weights.pth')
