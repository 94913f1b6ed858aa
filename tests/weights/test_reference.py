"""The authors' names and layouts of arrays, there and back. Their shapes are checked in test_released.py."""

import jax
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, UNetConfig, param_shapes
from diffusion_jax.weights.reference import from_reference, reference_shapes, to_reference

TINY = dict(
    image_size=(8, 8),
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_head_channels=32,
)

VARIANTS = [
    UNetConfig(**TINY, num_classes=5),
    UNetConfig(**TINY, low_res=True, resblock_updown=False, scale_shift_norm=False),
    UNetConfig(**TINY, resblock_updown=False, conv_resample=False),
    *(
        ClassifierConfig(**TINY, num_classes=7, pool=pool)
        for pool in ('adaptive', 'attention', 'spatial', 'spatial_v2')
    ),
]


def random_state(config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        key: rng.standard_normal(shape).astype(np.float32) for key, shape in reference_shapes(config).items()
    }


@pytest.mark.parametrize('config', VARIANTS)
def test_round_trip_is_exact_and_complete(config):
    state = random_state(config)
    params = from_reference(config, state)
    shapes = param_shapes(config)
    assert jax.tree.structure(params) == jax.tree.structure(shapes)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(params))
    back = to_reference(config, params)
    assert list(back) == list(state)
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array)
        assert back[key].flags.c_contiguous


def test_layouts():
    config = UNetConfig(**TINY, num_classes=5)
    state = random_state(config)
    params = from_reference(config, state)
    conv = state['input_blocks.0.0.weight']
    np.testing.assert_array_equal(params['encoder']['block_0']['conv']['kernel'][1, 2], conv[:, :, 1, 2].T)
    qkv = state['middle_block.1.qkv.weight']
    np.testing.assert_array_equal(params['middle']['attention']['qkv']['kernel'], qkv[:, :, 0].T)
    skip = state['input_blocks.3.0.skip_connection.weight']
    np.testing.assert_array_equal(
        params['encoder']['block_3']['residual']['skip']['kernel'], skip[:, :, 0, 0].T
    )
    np.testing.assert_array_equal(params['label_embedding']['embedding'], state['label_emb.weight'])


def test_half_precision_weights_become_float32():
    config = VARIANTS[0]
    state = {key: array.astype(np.float16) for key, array in random_state(config).items()}
    assert {leaf.dtype for leaf in jax.tree.leaves(from_reference(config, state))} == {np.dtype(np.float32)}


def test_mismatch_names_keys_and_shapes():
    config = VARIANTS[0]
    state = random_state(config)
    del state['time_embed.0.bias']
    state['out.2.weight'] = np.zeros((3, 32, 3, 3), np.float32)
    state['unknown.weight'] = np.zeros(2, np.float32)
    with pytest.raises(UserError) as error:
        from_reference(config, state)
    message = str(error.value)
    assert '\n' not in message
    assert 'time_embed.0.bias: (128,) expected, nothing found' in message
    assert 'out.2.weight: (6, 32, 3, 3) expected, (3, 32, 3, 3) found' in message
    assert 'unknown.weight: nothing expected, (2,) found' in message


def test_mismatch_of_our_params_is_named_too():
    params = from_reference(VARIANTS[3], random_state(VARIANTS[3]))
    del params['head']['norm']
    with pytest.raises(UserError, match=r'head/norm/scale: \(64,\) expected, nothing found'):
        to_reference(VARIANTS[3], params)
