import dataclasses
import functools
import json
import os

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from diffusion_jax.errors import UserError
from diffusion_jax.models import describe_network, param_shapes
from diffusion_jax.weights import arrays, files
from diffusion_jax.weights.files import Weights, load_weights, read_header, save_weights
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, UNET


@functools.cache
def params_of(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), param_shapes(config))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'unet.safetensors'
    save_weights(path, Weights(UNET, params_of(UNET), DIFFUSION, '64x64_diffusion'))
    return path


def test_everything_comes_back(saved, tmp_path):
    weights = load_weights(saved)
    assert_same(params_of(UNET), weights.params)
    assert weights[:1] + weights[2:4] == (UNET, DIFFUSION, '64x64_diffusion')
    save_weights(tmp_path / 'classifier', Weights(CLASSIFIER, params_of(CLASSIFIER), DIFFUSION))
    weights = load_weights(tmp_path / 'classifier')
    assert_same(params_of(CLASSIFIER), weights.params)
    assert weights[:1] + weights[2:4] == (CLASSIFIER, DIFFUSION, '')


def test_a_file_says_whether_the_null_class_was_trained(tmp_path):
    network = dataclasses.replace(CONDITIONAL_UNET, label_dropout=0.1)
    save_weights(tmp_path / 'file', Weights(network, params_of(CONDITIONAL_UNET), DIFFUSION))
    assert read_header(tmp_path / 'file').network == network


def test_a_header_is_the_same_without_parameters(saved):
    assert read_header(saved) == load_weights(saved)._replace(params={})


def test_others_can_read_it(saved):
    with safe_open(saved, 'numpy') as file:
        kernel = file.get_tensor('encoder/block_0/conv/kernel')
        assert json.loads(file.metadata()['network']) == describe_network(UNET)
    np.testing.assert_array_equal(kernel, params_of(UNET)['encoder']['block_0']['conv']['kernel'])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(value, tmp_path):
    params = jax.tree.map(np.copy, params_of(UNET))
    params['encoder']['block_0']['conv']['kernel'][1, 2, 0, 5] = value
    save_weights(tmp_path / 'file', Weights(UNET, params, DIFFUSION))
    with pytest.raises(UserError) as error:
        load_weights(tmp_path / 'file')
    for part in (
        str(tmp_path / 'file'),
        'encoder/block_0/conv/kernel is not finite',
        f'{value} at [1, 2, 0, 5]',
    ):
        assert part in str(error.value)


def test_how_it_is_computed_is_not_stored(saved, tmp_path):
    network = dataclasses.replace(UNET, dtype='bfloat16', remat=True, dropout=0.1)
    save_weights(tmp_path / 'file', Weights(network, params_of(UNET), DIFFUSION, '64x64_diffusion'))
    assert read_header(tmp_path / 'file') == read_header(saved)


def test_views_and_jax_arrays_are_written_as_they_look(tmp_path):
    views = jax.tree.map(lambda leaf: np.asfortranarray(leaf) if leaf.ndim > 1 else leaf, params_of(UNET))
    save_weights(tmp_path / 'views', Weights(UNET, views, DIFFUSION))
    assert_same(params_of(UNET), load_weights(tmp_path / 'views').params)
    save_weights(tmp_path / 'jax', Weights(UNET, jax.tree.map(jax.numpy.asarray, views), DIFFUSION))
    assert read_header(tmp_path / 'jax').digest == read_header(tmp_path / 'views').digest


def test_the_digest_tells_contents_apart(saved, tmp_path):
    digests = {read_header(saved).digest}
    changed = jax.tree.map(np.copy, params_of(UNET))
    changed['conv_out']['bias'][0] += 1e-6
    for i, weights in enumerate(
        [
            Weights(UNET, changed, DIFFUSION, '64x64_diffusion'),
            Weights(UNET, params_of(UNET), dataclasses.replace(DIFFUSION, prediction='v'), '64x64_diffusion'),
            Weights(
                dataclasses.replace(UNET, qkv_order='new'), params_of(UNET), DIFFUSION, '64x64_diffusion'
            ),
        ]
    ):
        save_weights(tmp_path / str(i), weights)
        digests.add(read_header(tmp_path / str(i)).digest)
    assert len(digests) == 4


def test_every_flipped_byte_is_found(saved, tmp_path):
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], 'little')
    rng = np.random.default_rng(0)
    places = [0, 3, *rng.integers(8, header, 60), header, *rng.integers(header, len(content), 20)]
    missed = []
    for place in [*places, len(content) - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / 'damaged').write_bytes(damaged)
        try:
            weights = load_weights(tmp_path / 'damaged')
            # What pads the header is no content.
            missed += [] if weights.digest == read_header(saved).digest else [place]
            assert_same(params_of(UNET), weights.params)
        except UserError as error:
            assert '\n' not in str(error) and str(tmp_path) in str(error)
    assert not missed


@pytest.mark.parametrize('size', [0, 5, 8, 1000, 0.5, 0.999])
def test_a_truncated_file_is_named(saved, tmp_path, size):
    content = saved.read_bytes()
    length = int(size * len(content)) if isinstance(size, float) else size
    (tmp_path / 'short').write_bytes(content[:length])
    for read in (load_weights, read_header):
        with pytest.raises(UserError, match=r'short: .*not whole .*diffusion-jax convert'):
            read(tmp_path / 'short')


def test_what_is_not_ours_is_named(tmp_path):
    save_file({'weight': np.zeros(3, np.float32)}, tmp_path / 'foreign', metadata={'format': 'pt'})
    save_file({'weight': np.zeros(3, np.float32)}, tmp_path / 'bare')
    (tmp_path / 'text').write_text('no weights at all')
    for name, message in {
        'foreign': "foreign: its format is 'pt' and not 'diffusion_jax weights 1'",
        'bare': 'bare: is a safetensors file of another program',
        'text': 'text: no safetensors file',
        'nothing': 'nothing: no such file',
        '.': 'is a folder; give a file',
    }.items():
        with pytest.raises(UserError, match=message):
            load_weights(tmp_path / name)


def test_a_network_that_is_not_known_here_is_named(tmp_path, monkeypatch):
    later = {**describe_network(UNET), 'registers': 4}
    monkeypatch.setattr(files, 'describe_network', lambda network: later)
    save_weights(tmp_path / 'later', Weights(UNET, params_of(UNET), DIFFUSION))
    with pytest.raises(UserError, match=r'later: of another version \(network.registers: no such setting'):
        load_weights(tmp_path / 'later')


def test_others_may_read_it_as_they_may_any_file(tmp_path):
    save_weights(tmp_path / 'file', Weights(UNET, params_of(UNET), DIFFUSION))
    (tmp_path / 'other').write_text('')
    assert (tmp_path / 'file').stat().st_mode == (tmp_path / 'other').stat().st_mode


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    save_weights(path, Weights(UNET, params_of(UNET), DIFFUSION))
    before = path.read_bytes()

    def full(arrays, name, metadata):
        with open(name, 'wb') as file:
            file.write(b'half of it')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(arrays, 'save_file', full)
    with pytest.raises(UserError, match=r'file: cannot be written .*No space left'):
        save_weights(path, Weights(CLASSIFIER, params_of(CLASSIFIER), DIFFUSION))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['file']
