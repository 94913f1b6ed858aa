import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception.files import (
    InceptionWeights,
    load_inception,
    params_sha256,
    save_inception,
)
from diffusion_jax.weights.arrays import save_arrays

RNG = np.random.default_rng(0)
PARAMS = {
    'stem': {
        'kernel': RNG.standard_normal((3, 3, 2, 4)).astype(np.float32),
        'bias': np.arange(4.0, dtype='f4'),
    },
    'logits': {'kernel': RNG.standard_normal((7, 5)).astype(np.float32)},
}
WEIGHTS = InceptionWeights(PARAMS, params_sha256(PARAMS), 'weights.pth', 64 * 'a')


@pytest.fixture
def saved(tmp_path):
    save_inception(tmp_path / 'file', WEIGHTS)
    return tmp_path / 'file'


def test_everything_comes_back(saved):
    loaded = load_inception(saved)
    assert loaded[1:] == WEIGHTS[1:]
    assert loaded.params.keys() == PARAMS.keys()
    for name, leaves in PARAMS.items():
        assert loaded.params[name].keys() == leaves.keys()
        for leaf, array in leaves.items():
            np.testing.assert_array_equal(loaded.params[name][leaf], array, strict=True)


def test_others_can_read_it(saved):
    with safe_open(saved, 'numpy') as file:
        np.testing.assert_array_equal(file.get_tensor('logits/kernel'), PARAMS['logits']['kernel'])
        assert file.metadata()['source'] == 'weights.pth'


def test_the_sha256_is_of_names_shapes_and_values_only():
    stem, logits = PARAMS['stem'], PARAMS['logits']['kernel']
    turned = {'logits': {'kernel': np.asfortranarray(logits)}, 'stem': dict(reversed(stem.items()))}
    assert params_sha256(turned) == WEIGHTS.sha256
    others = [
        {**PARAMS, 'logits': {'kernel': logits.reshape(5, 7)}},
        {**PARAMS, 'logits': {'weight': logits}},
        {**PARAMS, 'logits': {'kernel': np.nextafter(logits, np.float32(9))}},
    ]
    assert len({WEIGHTS.sha256, *map(params_sha256, others)}) == 4


def test_every_flipped_byte_is_found(saved, tmp_path):
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], 'little')
    missed = []
    for place in [
        0,
        3,
        *RNG.integers(8, header, 60),
        *RNG.integers(header, len(content), 20),
        len(content) - 1,
    ]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << RNG.integers(8)
        (tmp_path / 'damaged').write_bytes(damaged)
        try:
            # What pads the header is no content.
            missed += [] if load_inception(tmp_path / 'damaged')[1:] == WEIGHTS[1:] else [place]
        except UserError as error:
            assert '\n' not in str(error) and 'damaged' in str(error)
    assert not missed


def test_what_is_not_ours_is_named(saved, tmp_path):
    save_file({'weight': np.zeros(3, np.float32)}, tmp_path / 'foreign')
    save_arrays(tmp_path / 'network', 'diffusion_jax weights 1', {'a': np.zeros(3)}, {})
    (tmp_path / 'text').write_text('no weights at all')
    (tmp_path / 'short').write_bytes(saved.read_bytes()[:-10])
    for name, message in {
        'foreign': 'format None',
        'network': "format 'diffusion_jax weights 1'",
        'text': 'no intact safetensors file',
        'short': 'no intact safetensors file',
        'nothing': 'no such file',
        '.': 'is a folder',
    }.items():
        with pytest.raises(UserError, match=f'{message}.*diffusion-jax convert-inception') as error:
            load_inception(tmp_path / name)
        assert '\n' not in str(error.value)


def test_a_place_that_cannot_be_written_is_named(saved):
    with pytest.raises(UserError, match='cannot be written'):
        save_inception(saved / 'file', WEIGHTS)
    assert os.listdir(saved.parent) == ['file']
