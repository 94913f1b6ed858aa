"""The parts of Inception v3 against their definitions; the whole is compared in tests/parity/inception.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffusion_jax.evaluation.inception import network
from diffusion_jax.evaluation.inception.architecture import Conv, Pool
from diffusion_jax.evaluation.inception.resize import RESIZE
from tests.parity.inception import features, params_by_rule

convolve = jax.jit(network.convolve, static_argnums=2)
reduce_pixels = jax.jit(network.pool, static_argnums=1)


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def windows(x, size, stride, same):
    """Of NumPy: [B, H', W', kh, kw, C]; nan where a window is over padding."""
    if same:
        sides = [((n - 1) // 2, n // 2) for n in size]
        x = np.pad(x, ((0, 0), *sides, (0, 0)), constant_values=np.nan)
    found = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return np.moveaxis(found, 3, -1)[:, ::stride, ::stride]


@pytest.mark.parametrize(
    ('size', 'stride', 'padding'),
    [
        ((1, 1), 1, 'SAME'),
        ((3, 3), 1, 'SAME'),
        ((1, 7), 1, 'SAME'),
        ((3, 3), 1, 'VALID'),
        ((3, 3), 2, 'VALID'),
    ],
)
def test_convolutions(size, stride, padding):
    for shape in ((2, 8, 9, 3), (2, 9, 8, 3)):
        x, kernel = draw(shape), draw((*size, 3, 5))
        conv = Conv('', 5, size, stride, padding)
        expected = np.einsum(
            'byxijc,ijcd->byxd', np.nan_to_num(windows(x, size, stride, padding == 'SAME')), kernel
        )
        ours = convolve(x, kernel, conv)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('pool', 'reduce'),
    [
        (Pool('average'), np.nanmean),  # padding is not counted
        (Pool('max'), np.nanmax),
        (Pool('max', 2, 'VALID'), np.nanmax),
    ],
)
def test_pools(pool, reduce):
    for shape in ((2, 8, 9, 3), (2, 9, 8, 3)):
        x = draw(shape) - 5
        expected = reduce(windows(x, (3, 3), pool.stride, pool.padding == 'SAME'), axis=(3, 4))
        np.testing.assert_allclose(reduce_pixels(x, pool), expected, rtol=1e-6)


def test_features_of_images_do_not_depend_on_their_batch():
    params, x = params_by_rule(31), draw((2, 299, 299, 3)).clip(-1, 1)
    ours, swapped = features(params, x), features(params, x[::-1])
    for a, b in zip(ours, swapped, strict=True):
        np.testing.assert_allclose(a, b[::-1], rtol=0, atol=1e-5 * np.abs(a).max())
        assert not np.allclose(a, b, rtol=0, atol=1e-2 * np.abs(a).max())
        assert a.min() >= 0


@pytest.mark.parametrize('resize', RESIZE)
def test_takes_images_of_any_size(resize):
    images = jax.ShapeDtypeStruct((3, 40, 70, 3), jnp.uint8)
    pool, spatial = jax.eval_shape(
        lambda params, images: network.apply(params, images, resize), network.param_shapes(), images
    )
    assert (pool.shape, spatial.shape) == ((3, 2048), (3, 17 * 17 * 7))
    assert pool.dtype == spatial.dtype == jnp.float32


def test_logits_have_no_bias():
    params = params_by_rule(31)
    pool = draw((2, 2048))
    expected = pool.astype(np.float64) @ params['logits']['kernel']
    np.testing.assert_allclose(network.logits(params, pool), expected, rtol=0, atol=1e-4)
    assert not network.logits(params, np.zeros_like(pool)).any()


def test_float32_everywhere():
    """TPUs and GPUs take less for float32 unless every product says otherwise."""
    params, x = network.param_shapes(), jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    products = [
        equation.params['precision']
        for equation in jax.make_jaxpr(network.features)(params, x).eqns
        if equation.primitive.name in ('conv_general_dilated', 'dot_general')
    ]
    assert len(products) == 94
    assert all(precision == (lax.Precision.HIGHEST,) * 2 for precision in products)
