"""Group normalization: values, the custom gradient, and inputs in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion_jax.models.normalization import GroupNorm, group_norm, half_group_norm


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def exact(x, scale, shift, silu, groups=32):
    """The same in float64."""
    x = np.asarray(x, np.float64)
    groups = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    centered = groups - groups.mean(axis=(1, 3), keepdims=True)
    groups = centered / np.sqrt(groups.var(axis=(1, 3), keepdims=True) + 1e-5)
    pixels = (1,) * (x.ndim - 2)
    scale, shift = (np.asarray(a, np.float64).reshape(len(x), *pixels, -1) for a in (scale, shift))
    z = scale * groups.reshape(x.shape) + shift
    return z / (1 + np.exp(-z)) if silu else z


@pytest.fixture
def coefficients():
    return 1 + 0.3 * normal(2, 64, seed=1), normal(2, 64, seed=2)


@pytest.mark.parametrize(('silu', 'groups'), [(True, 32), (False, 32), (True, 8)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_is_exact_up_to_the_rounding_of_the_result(coefficients, dtype, silu, groups):
    x = (3 + normal(2, 6, 4, 64)).astype(dtype)
    y = group_norm((x,), *coefficients, silu, groups)
    assert y.dtype == dtype
    tolerance = {'rtol': 2**-8, 'atol': 1e-4} if dtype == 'bfloat16' else {'rtol': 2e-5, 'atol': 2e-5}
    np.testing.assert_allclose(np.asarray(y, np.float64), exact(x, *coefficients, silu, groups), **tolerance)


@pytest.mark.parametrize(('dtype', 'mean', 'deviation'), [('float32', 100, 0.01), ('bfloat16', 4, 1)])
def test_keeps_its_digits_at_a_large_mean(dtype, mean, deviation):
    x = (mean + deviation * normal(2, 8, 8, 64)).astype(dtype)
    y = GroupNorm(64, 32)(x, silu=False)
    expected = exact(x, np.ones((2, 64)), np.zeros((2, 64)), silu=False)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=5e-3)


def test_an_image_of_one_colour_becomes_the_shift(coefficients):
    x = jnp.full((2, 4, 4, 64), 100, jnp.bfloat16)
    y, gradient = jax.vjp(lambda x: group_norm((x,), *coefficients, False, 32), x)
    expected = np.broadcast_to(coefficients[1][:, None, None], y.shape)
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=2**-8)
    assert np.isfinite(np.asarray(gradient(y)[0], np.float32)).all()


@pytest.mark.parametrize(('silu', 'groups'), [(True, 32), (False, 32), (True, 8)])
def test_custom_gradient_is_that_of_autodiff(coefficients, silu, groups):
    x, g = normal(2, 5, 3, 64, seed=3), normal(2, 5, 3, 64, seed=4)

    def by_hand(x, scale, shift):
        return half_group_norm((x[..., :24], x[..., 24:]), scale, shift, silu, groups)

    def by_autodiff(x, scale, shift):
        normal = x.reshape(2, -1, groups, 64 // groups)
        normal -= normal.mean(axis=(1, 3), keepdims=True)
        normal *= jax.lax.rsqrt((normal**2).mean(axis=(1, 3), keepdims=True) + 1e-5)
        z = scale[:, None, None] * normal.reshape(x.shape) + shift[:, None, None]
        return nnx.silu(z) if silu else z

    (y, hand), (expected, autodiff) = (jax.vjp(f, x, *coefficients) for f in (by_hand, by_autodiff))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(hand(g), autodiff(g), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradient_in_bfloat16_is_that_of_float32_rounded(coefficients):
    x, g = normal(2, 16, 16, 64).astype('bfloat16'), normal(2, 16, 16, 64, seed=5).astype('bfloat16')

    def gradients(dtype):
        _, backward = jax.vjp(
            lambda x, *c: half_group_norm((x,), *c, True, 32), x.astype(dtype), *coefficients
        )
        return backward(g.astype(dtype))

    for half, full in zip(gradients('bfloat16'), gradients('float32'), strict=True):
        assert half.shape == full.shape
        np.testing.assert_allclose(np.asarray(half, np.float32), full, rtol=2**-7, atol=1e-3)


def test_adaptive_modulation(coefficients):
    """(1 + e_s)·GroupNorm(x) + e_b, where GroupNorm has a scale and a bias of its own."""
    norm, x, e = GroupNorm(64, 32), normal(2, 4, 4, 64), normal(2, 128, seed=6)
    norm.scale[...], norm.bias[...] = coefficients[0][0], coefficients[1][0]
    inner = norm(x, silu=False)
    expected = (1 + e[:, None, None, :64]) * inner + e[:, None, None, 64:]
    np.testing.assert_allclose(norm(x, modulation=e, silu=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_parts_are_normalized_as_their_concatenation(dtype):
    """Also where a group, here of 3 channels, lies in two parts."""
    x = normal(2, 4, 4, 96).astype(dtype)
    norm = GroupNorm(96, 32)
    np.testing.assert_array_equal(norm(x[..., :64], x[..., 64:]), norm(x))


def test_forward_mode_in_float32():
    x, dx = normal(2, 4, 4, 64), normal(2, 4, 4, 64, seed=7)
    norm = GroupNorm(64, 32)
    _, dy = jax.jvp(norm, (x,), (dx,))
    _, backward = jax.vjp(norm, x)
    np.testing.assert_allclose(jnp.vdot(dy, dy), jnp.vdot(backward(dy)[0], dx), rtol=1e-4)
