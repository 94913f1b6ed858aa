"""`convert-inception`, from a file with weights of the real size to the one that evaluation reads."""

import hashlib
import importlib.util

import jax
import numpy as np
import pytest

from diffusion_jax.commands import convert_inception
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception.files import load_inception, params_sha256
from diffusion_jax.evaluation.inception.sources import params_from_state, state_shapes
from tests.evaluation.inception.foreign import graph_of, random_state

torch = importlib.import_module('torch') if importlib.util.find_spec('torch') else None
needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch: pip install 'diffusion_jax[convert]'")


def run(*arguments):
    return convert_inception.main(['diffusion-jax convert-inception', *map(str, arguments)])


@pytest.fixture(scope='module')
def state():
    return random_state(state_shapes())


@pytest.fixture(scope='module')
def params(state):
    """What the file of pytorch-fid becomes."""
    return params_from_state(state)


def test_a_graph_becomes_what_the_pytorch_port_becomes(tmp_path, capsys, state, params):
    source, out = tmp_path / 'graph.pb', tmp_path / 'inception.safetensors'
    source.write_bytes(graph_of(state).SerializeToString())
    assert run(source, '--out', out) == 0
    inception = load_inception(out)
    assert jax.tree.structure(inception.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, inception.params, params)
    assert inception.sha256 == params_sha256(params)
    assert inception.source == 'graph.pb'
    assert inception.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    printed = capsys.readouterr().out
    assert '189 arrays, 23,832,736 parameters' in printed
    assert inception.sha256 in printed and inception.source_sha256 in printed
    assert f'use it: diffusion-jax evaluate SAMPLES REFERENCE --inception={out}\n' in printed


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    for source, out in ((tmp_path / 'a', tmp_path), (tmp_path / 'a', tmp_path / 'a')):
        with pytest.raises(UserError, match=str(out)):
            run(source, '--out', out)


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit) as stop:
        run('--help')
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for text in ('6726825d.pth', 'graph_def.pb', '[convert]', 'evaluate'):
        assert text in printed


def save_state(state, path, **options):
    torch.save({key: torch.from_numpy(array) for key, array in state.items()}, path, **options)


@needs_torch
@pytest.mark.parametrize('zipped', [True, False])
def test_files_that_pytorch_wrote_are_read(tmp_path, state, params, zipped):
    """Also in the format before PyTorch 1.6."""
    save_state(state, tmp_path / 'source', _use_new_zipfile_serialization=zipped)
    assert run(tmp_path / 'source', '--out', tmp_path / 'out') == 0
    assert load_inception(tmp_path / 'out').sha256 == params_sha256(params)


@needs_torch
def test_other_files_of_pytorch_are_named(tmp_path):
    for save in (
        lambda path: torch.save({'input_blocks.0.0.weight': torch.zeros(4)}, path),
        lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), path),
    ):
        save(tmp_path / 'source')
        with pytest.raises(UserError, match='source: ') as error:
            run(tmp_path / 'source', '--out', tmp_path / 'out')
        assert '\n' not in str(error.value)
        assert not (tmp_path / 'out').exists()
