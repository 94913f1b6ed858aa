"""Scaling and reduction on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.images import area_downsample, to_float, to_uint8


def test_to_float_covers_minus_one_to_one():
    x = to_float(jnp.arange(256, dtype=jnp.uint8))
    assert x.dtype == jnp.float32
    assert (x[0], x[255]) == (-1, 1)
    np.testing.assert_allclose(x, np.arange(256) / 127.5 - 1, atol=1e-7)


def test_to_uint8_truncates_and_clamps():
    x = jnp.array([-5.0, -1.0, -0.9999, 0.0, 0.999, 1.0, 5.0])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 127, 254, 255, 255])
    # Truncation loses a step where rounding falls short; never more.
    every = jnp.arange(256, dtype=jnp.uint8)
    lost = every.astype(int) - to_uint8(to_float(every)).astype(int)
    assert set(lost.tolist()) == {0, 1}


def test_area_downsample_by_a_whole_factor_is_the_mean_of_boxes():
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    boxes = x.reshape(2, 4, 2, 4, 3, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(area_downsample(x, (4, 4)), boxes, atol=1e-6)


@pytest.mark.parametrize('size', [(1, 1), (3, 4), (5, 7)])
def test_area_downsample_by_any_factor_follows_its_definition(size):
    x = np.asarray(jax.random.normal(jax.random.key(0), (1, 5, 7, 2)))
    actual = area_downsample(x, size)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * 5 // size[0], -(-(i + 1) * 5 // size[0]))
            columns = slice(j * 7 // size[1], -(-(j + 1) * 7 // size[1]))
            expected = x[0, rows, columns].mean(axis=(0, 1))
            np.testing.assert_allclose(actual[0, i, j], expected, atol=1e-6)
