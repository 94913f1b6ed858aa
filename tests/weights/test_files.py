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
from diffusion_jax.weights.files import Spec, load_weights, read_spec, save_weights
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, UNET, UPSAMPLER


@functools.cache
def params_of(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), param_shapes(config))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(x, y)


NAMED = Spec(UNET, DIFFUSION, '64x64_diffusion')


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'unet.safetensors'
    save_weights(path, NAMED, params_of(UNET))
    return path


def test_round_trip(saved, tmp_path):
    spec, params = load_weights(saved)
    assert_same(params_of(UNET), params)
    assert spec == read_spec(saved)
    assert spec[:3] == NAMED[:3]
    classifier = Spec(CLASSIFIER, DIFFUSION, classes=('a', 'b'))
    save_weights(tmp_path / 'classifier', classifier, params_of(CLASSIFIER))
    spec, params = load_weights(tmp_path / 'classifier')
    assert_same(params_of(CLASSIFIER), params)
    assert spec == classifier._replace(digest=spec.digest)


def test_label_dropout_is_stored(tmp_path):
    network = dataclasses.replace(CONDITIONAL_UNET, label_dropout=0.1)
    save_weights(tmp_path / 'file', Spec(network, DIFFUSION), params_of(CONDITIONAL_UNET))
    assert read_spec(tmp_path / 'file').network == network


def test_other_programs_can_read_it(saved):
    with safe_open(saved, 'numpy') as file:
        kernel = file.get_tensor('encoder/block_0/conv/kernel')
        assert json.loads(file.metadata()['network']) == describe_network(UNET)
    np.testing.assert_array_equal(kernel, params_of(UNET)['encoder']['block_0']['conv']['kernel'])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
    params = jax.tree.map(np.copy, params_of(UNET))
    params['encoder']['block_0']['conv']['kernel'][1, 2, 0, 5] = value
    save_weights(tmp_path / 'file', NAMED, params)
    with pytest.raises(UserError) as error:
        load_weights(tmp_path / 'file')
    assert error.value.where == str(tmp_path / 'file')
    for part in ('encoder/block_0/conv/kernel', f'{value} at [1, 2, 0, 5]'):
        assert part in error.value.problem


def test_settings_of_the_computation_are_not_stored(saved, tmp_path):
    network = dataclasses.replace(UNET, dtype='bfloat16', remat=True, dropout=0.1)
    save_weights(tmp_path / 'file', NAMED._replace(network=network), params_of(UNET))
    assert read_spec(tmp_path / 'file') == read_spec(saved)


def test_views_and_jax_arrays_are_written_by_value(tmp_path):
    views = jax.tree.map(lambda leaf: np.asfortranarray(leaf) if leaf.ndim > 1 else leaf, params_of(UNET))
    save_weights(tmp_path / 'views', NAMED, views)
    assert_same(params_of(UNET), load_weights(tmp_path / 'views')[1])
    save_weights(tmp_path / 'jax', NAMED, jax.tree.map(jax.numpy.asarray, views))
    assert read_spec(tmp_path / 'jax').digest == read_spec(tmp_path / 'views').digest


def test_the_digest_identifies_the_content(saved, tmp_path):
    changed = jax.tree.map(np.copy, params_of(UNET))
    changed['conv_out']['bias'][0] += 1e-6
    digests = {read_spec(saved).digest}
    for spec, params in (
        (NAMED, changed),
        (NAMED._replace(diffusion=dataclasses.replace(DIFFUSION, prediction='v')), params_of(UNET)),
        (NAMED._replace(network=dataclasses.replace(UNET, qkv_order='new')), params_of(UNET)),
    ):
        save_weights(tmp_path / 'file', spec, params)
        digests.add(read_spec(tmp_path / 'file').digest)
    assert len(digests) == 4


def test_every_flipped_byte_is_found(saved, tmp_path):
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], 'little')
    rng = np.random.default_rng(0)
    places = [0, 3, *rng.integers(8, header, 60), header, *rng.integers(header, len(content), 20)]
    for place in [*places, len(content) - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / 'damaged').write_bytes(damaged)
        try:  # the padding of the header is not content
            spec, params = load_weights(tmp_path / 'damaged')
            assert spec.digest == read_spec(saved).digest, place
            assert_same(params_of(UNET), params)
        except UserError as error:
            assert '\n' not in str(error) and error.where == str(tmp_path / 'damaged')


@pytest.mark.parametrize('size', [0, 5, 8, 1000, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, tmp_path, size):
    content = saved.read_bytes()
    length = int(size * len(content)) if isinstance(size, float) else size
    (tmp_path / 'short').write_bytes(content[:length])
    for read in (load_weights, read_spec):
        with pytest.raises(UserError) as error:
            read(tmp_path / 'short')
        assert 'no intact safetensors file' in error.value.problem


def test_other_files_are_refused(tmp_path):
    save_file({'weight': np.zeros(3, np.float32)}, tmp_path / 'foreign', metadata={'format': 'pt'})
    save_file({'weight': np.zeros(3, np.float32)}, tmp_path / 'bare')
    (tmp_path / 'text.pt').write_text('no weights at all')
    for name, problem in {
        'foreign': "format 'pt'",
        'bare': 'format None',
        'text.pt': 'no intact safetensors file',
        'nothing': 'no such file',
        '.': 'is a folder',
    }.items():
        with pytest.raises(UserError) as error:
            load_weights(tmp_path / name)
        assert problem in error.value.problem and 'diffusion-jax convert' in error.value.remedy


def test_a_network_of_a_later_version_is_refused(tmp_path, monkeypatch):
    later = {**describe_network(UNET), 'registers': 4}
    monkeypatch.setattr(files, 'describe_network', lambda network: later)
    save_weights(tmp_path / 'later', NAMED, params_of(UNET))
    with pytest.raises(UserError, match=r'network\.registers'):
        load_weights(tmp_path / 'later')


def test_its_permissions_are_those_of_any_file(tmp_path):
    save_weights(tmp_path / 'file', NAMED, params_of(UNET))
    (tmp_path / 'other').write_text('')
    assert (tmp_path / 'file').stat().st_mode == (tmp_path / 'other').stat().st_mode


def test_it_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    save_weights(path, NAMED, params_of(UNET))
    before = path.read_bytes()

    def full(arrays, name, metadata):
        with open(name, 'wb') as file:
            file.write(b'half of it')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(arrays, 'save_file', full)
    with pytest.raises(UserError, match='No space left'):
        save_weights(path, Spec(CLASSIFIER, DIFFUSION), params_of(CLASSIFIER))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['file']


def test_the_size_that_an_upsampler_enlarges(tmp_path):
    """Files of other networks, and of older versions, have no such entry."""
    small = tmp_path / 'small'
    save_weights(small, Spec(UPSAMPLER, DIFFUSION, low_res_size=(4, 8)), params_of(UPSAMPLER))
    assert read_spec(small).low_res_size == load_weights(small)[0].low_res_size == (4, 8)
    for name, expected in {'': None, '64_256_upsampler': (64, 64)}.items():
        save_weights(tmp_path / 'file', Spec(UPSAMPLER, DIFFUSION, name), params_of(UPSAMPLER))
        assert read_spec(tmp_path / 'file').low_res_size == expected
        assert b'low_res_size' not in (tmp_path / 'file').read_bytes()
