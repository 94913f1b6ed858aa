"""Resizing against the formula in float64."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion_jax.evaluation.inception.resize import RESIZE, SIZE


@functools.cache
def resize(kind):
    return jax.jit(RESIZE[kind])


def draw(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def exact(images, kind):
    """Linear interpolation along each axis; beyond the first and the last pixel their values."""
    x = images.astype(np.float64)
    for axis in (1, 2):
        i, scale = np.arange(SIZE), x.shape[axis] / SIZE
        positions = i * scale if kind == 'tensorflow' else (i + 0.5) * scale - 0.5
        line = functools.partial(np.interp, positions, np.arange(x.shape[axis]))
        x = np.apply_along_axis(line, axis, x)
    return x / 128 - 1 if kind == 'tensorflow' else x / 127.5 - 1


@settings(max_examples=6)
@given(st.sampled_from(sorted(RESIZE)), st.integers(1, 600), st.integers(1, 600))
@example('tensorflow', 512, 256)
@example('pytorch_fid', 256, 512)
@example('tensorflow', 1, 2)
def test_is_the_formula(kind, height, width):
    images = draw((2, height, width, 3))
    ours = resize(kind)(images)
    assert ours.shape == (2, SIZE, SIZE, 3) and ours.dtype == np.float32
    # Positions are float32: off by two roundings, where neighbouring pixels differ by 2 at most.
    positions = 2 * 2**-23 * (height + width)
    np.testing.assert_allclose(ours, exact(images, kind), rtol=0, atol=positions + 1e-6)


@pytest.mark.parametrize('kind', RESIZE)
def test_keeps_images_of_the_right_size(kind):
    images = draw((1, SIZE, SIZE, 3))
    np.testing.assert_allclose(resize(kind)(images), exact(images, kind), rtol=0, atol=2e-7)


def test_pixels_have_centers_in_pytorch_fid_alone():
    images = draw((1, 2, 5, 3))
    mirrored = images[:, ::-1, ::-1]
    for kind, symmetric in (('pytorch_fid', True), ('tensorflow', False)):
        resized, back = resize(kind)(images), resize(kind)(mirrored)[:, ::-1, ::-1]
        assert np.allclose(resized, back, atol=1e-6) == symmetric
