"""Layers against plain NumPy."""

from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.models.attention import attend, attention_weights, has_flash_attention, split_heads
from diffusion_jax.models.config import TrunkConfig, UNetConfig
from diffusion_jax.models.layers import (
    OutputConv,
    ResidualBlock,
    add_residual,
    conv3x3,
    downsample,
    linear,
    timestep_embedding,
    upsample,
)
from diffusion_jax.models.layout import Layer
from tests.jaxprs import equations


@pytest.fixture
def rngs():
    return nnx.Rngs(params=jax.random.key(0))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(t=st.floats(0, 1000, width=32), dim=st.integers(2, 9))
def test_timestep_embedding(t, dim):
    half = dim // 2
    angles = t * 10000.0 ** (-np.arange(half) / half)
    expected = np.concatenate([np.cos(angles), np.sin(angles), np.zeros(dim % 2)])
    np.testing.assert_allclose(timestep_embedding(jnp.array([t]), dim)[0], expected, atol=1e-4)


def test_timestep_embedding_of_integers_is_that_of_floats():
    t = jnp.array([0, 1, 999])
    embedding = timestep_embedding(t, 8)
    assert embedding.dtype == jnp.float32
    np.testing.assert_array_equal(embedding, timestep_embedding(t.astype(jnp.float32), 8))


def test_resampling():
    x = normal(2, 4, 6, 3)
    np.testing.assert_array_equal(upsample(x)[:, 1::2, ::2], x)
    np.testing.assert_allclose(downsample(upsample(jnp.asarray(x))), x, rtol=1e-6)
    np.testing.assert_allclose(downsample(x)[0, 0, 1], x[0, :2, 2:4].mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('stride', [1, 2])
def test_convolution_is_padded_alike_on_all_sides(rngs, stride):
    x = normal(1, 4, 6, 2)
    conv = conv3x3(2, 3, rngs, stride=stride)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel, bias = np.asarray(conv.kernel[...]), np.asarray(conv.bias[...])
    y = conv(x)
    assert y.shape == (1, 4 // stride, 6 // stride, 3)
    for row in range(y.shape[1]):
        for column in range(y.shape[2]):
            i, j = stride * row, stride * column
            window = padded[0, i : i + 3, j : j + 3]
            np.testing.assert_allclose(
                y[0, row, column], np.einsum('hwi,hwio->o', window, kernel) + bias, atol=1e-5
            )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_output_convolution_is_a_convolution(dtype):
    config = UNetConfig(out_channels=6, dtype=dtype)
    conv = OutputConv(config, 64)
    conv.kernel[...], conv.bias[...] = 0.1 * normal(3, 3, 64, 6), normal(6, seed=1)
    x = jnp.asarray(normal(2, 4, 6, 64, seed=2)).astype(dtype)
    kernel = conv.kernel[...].astype(dtype).astype('float32')

    def plain(x, kernel):
        numbers = ('NHWC', 'HWIO', 'NHWC')
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=numbers)

    y, backward = jax.vjp(conv, x)
    expected, plain_backward = jax.vjp(plain, x.astype('float32'), kernel)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected + conv.bias[...], rtol=1e-5, atol=1e-5)
    gradient = np.asarray(backward(y)[0], np.float32)
    rounding = {'rtol': 2**-7, 'atol': 0.02} if dtype == 'bfloat16' else {'rtol': 1e-4, 'atol': 1e-4}
    np.testing.assert_allclose(gradient, plain_backward(y)[0], **rounding)


@pytest.mark.parametrize('adagn', [True, False])
def test_residual_block(rngs, adagn):
    """The formula of a block without resampling, with the mask of its dropout."""
    config = TrunkConfig(model_channels=32, dropout=0.5, scale_shift_norm=adagn)
    block = ResidualBlock(config, Layer('residual', 'residual', 32, 64), rngs)
    block.conv_out.kernel[...] = 0.1 * normal(3, 3, 64, 64)
    x, embedding, key = normal(2, 4, 4, 32), normal(2, 128, seed=1), jax.random.key(3)
    h = block.conv_in(block.norm_in(x))
    e = block.embedding(nnx.silu(embedding))
    if adagn:
        scale, shift = jnp.split(e[:, None, None], 2, axis=-1)
        h = (1 + scale) * block.norm_out(h, silu=False) + shift
    else:
        h = block.norm_out(h + e[:, None, None], silu=False)
    mask = block.dropout(jnp.ones_like(h), deterministic=False, rngs=key)
    assert set(np.unique(mask)) == {0.0, 2.0}
    expected = block.skip(x) + block.conv_out(mask * nnx.silu(h))
    np.testing.assert_allclose(block(x, embedding=embedding, key=key), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('make', [linear, conv3x3])
def test_initial_values_are_uniform_within_the_inverse_root_of_fan_in(rngs, make):
    module = make(64, 128, rngs)
    bound = (64 * (9 if make is conv3x3 else 1)) ** -0.5
    for values in (np.asarray(module.kernel[...]), np.asarray(module.bias[...])):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.95 * bound
        np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.1)
    zeros = make(64, 128, rngs, zero=True)
    assert not np.any(zeros.kernel[...]) and not np.any(zeros.bias[...])


def test_rescaled_residual_keeps_the_variance():
    x, h = normal(10_000), normal(10_000, seed=1)
    np.testing.assert_allclose(add_residual(x, h, rescale=True).var(), 1, rtol=0.05)
    np.testing.assert_allclose(add_residual(x, h, rescale=False), x + h)


def test_attend():
    q, k, v = normal(2, 3, 4, 8), normal(2, 5, 4, 8, seed=1), normal(2, 5, 4, 8, seed=2)
    weights = np.exp(np.einsum('bmhc,bnhc->bhmn', q, k) / np.sqrt(8))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum('bhmn,bnhc->bmhc', weights, v).reshape(2, 3, 32)
    np.testing.assert_allclose(attend(q, k, v), expected, atol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_derivative_of_the_attention_weights(dtype):
    q, k = (jnp.asarray(normal(2, 5, 3, 8, seed=seed)).astype(dtype) for seed in (0, 1))
    g = jnp.asarray(normal(2, 3, 5, 5, seed=2)).astype(dtype)

    def autodiff(q, k):
        return jax.nn.softmax(jnp.einsum('bmhc,bnhc->bhmn', q, k) * 8**-0.5, axis=-1)

    ours = jax.vjp(lambda q, k: attention_weights(q, k, 'highest'), q, k)[1](g)
    expected = jax.vjp(autodiff, q.astype('float32'), k.astype('float32'))[1](g.astype('float32'))
    for found, gradient in zip(ours, expected, strict=True):
        assert found.dtype == dtype
        rounding = {'rtol': 2**-6, 'atol': 5e-3} if dtype == 'bfloat16' else {'rtol': 1e-4, 'atol': 1e-6}
        np.testing.assert_allclose(np.asarray(found, np.float32), gradient, **rounding)


def test_products_of_the_derivative_are_in_the_computing_dtype():
    """On a GPU or TPU a float32 product takes several times as long."""
    q = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    gradient = jax.grad(lambda q, k, v: attend(q, k, v).astype('float32').sum(), (0, 1, 2))
    jaxpr = jax.make_jaxpr(gradient)(q, q, q).jaxpr
    products = [eqn for eqn in equations(jaxpr) if eqn.primitive.name == 'dot_general']
    assert len(products) == 6
    assert {str(operand.aval.dtype) for eqn in products for operand in eqn.invars} == {'bfloat16'}


@pytest.mark.parametrize(
    ('capability', 'head_size', 'expected'),
    [
        ('9.0', 64, True),
        ('8.0', 128, True),
        ('8.9', 192, False),
        ('8.0', 20, False),
        ('7.5', 64, False),
        ('gfx90a', 64, False),
        (None, 64, False),
    ],
)
def test_devices_with_flash_attention(capability, head_size, expected):
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch.object(jax, 'devices', lambda: [device]):
        assert has_flash_attention(head_size) == expected


def test_softmax_is_in_float32():
    """The logits are 256 and 257, which are the same number in bfloat16; 16 channels scale q and k by 1/2."""
    q, k, v = np.zeros((1, 1, 1, 16)), np.zeros((1, 2, 1, 16)), np.zeros((1, 2, 1, 1))
    q[..., :2], k[..., 0], k[0, 1, :, 1], v[0, 1] = 4, 256, 1, 1
    h = attend(*(jnp.asarray(array, jnp.bfloat16) for array in (q, k, v)))
    assert h.dtype == jnp.bfloat16
    np.testing.assert_allclose(h.astype(np.float32), jax.nn.sigmoid(1.0), rtol=1e-2)


def test_orders_of_qkv_channels():
    heads, channels = 2, 4
    # Channel values spell out what they are: 100·(q, k or v) + 10·head + channel.
    part, head, channel = np.meshgrid(range(3), range(heads), range(channels), indexing='ij')
    new = (100 * part + 10 * head + channel)[None, None]
    legacy = np.swapaxes(new, 2, 3)
    for order, qkv in (('new', new), ('legacy', legacy)):
        for i, array in enumerate(split_heads(jnp.asarray(qkv.reshape(1, 1, -1)), heads, order)):
            np.testing.assert_array_equal(array, new[:, :, i])
