import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierGuidance, Interval, Reuse
from diffusion_jax.diffusion.samplers import DDIM
from diffusion_jax.generation.arguments import (
    NotFinite,
    check_array,
    check_finite,
    one_for_each,
    traced,
    whole_number,
)
from tests.errors import refused

SHAPE = (2, 4, 4, 1)
DARK = np.full(SHAPE, 0x34, np.uint8)


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_integers_that_fit_become_uint8(dtype):
    found = check_array('images', DARK.astype(dtype), SHAPE, np.uint8)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, DARK)


@pytest.mark.parametrize(
    ('images', 'value'),
    [
        (DARK.astype(np.uint16) + 0x1200, 'uint16 (2, 4, 4, 1) with values from 4660 to 4660'),
        (DARK.astype(np.int64) - 256, '-204'),
        (DARK / 255, 'float64 (2, 4, 4, 1)'),
        (DARK > 0, 'bool'),
        (DARK[:1], '(1, 4, 4, 1)'),
        ([[1], [2, 3]], '[[1], [2, 3]]'),
        (None, None),
    ],
)
def test_images_that_a_cast_would_change_are_refused(images, value):
    with refused('images', value, 'uint8 (2, 4, 4, 1)'):
        check_array('images', images, SHAPE, np.uint8)


def test_a_text_is_any_length_but_0():
    assert check_array('images', DARK, ('B', 4, 'w', 1), np.uint8) is DARK
    for wrong in (DARK[:0], DARK[:, :3], DARK[0]):
        with refused('images', '(B, 4, w, 1)'):
            check_array('images', wrong, ('B', 4, 'w', 1), np.uint8)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, jnp.bfloat16, np.int8])
def test_numbers_of_any_type_become_float32(dtype):
    noise = np.linspace(-3, 3, 32).reshape(SHAPE).astype(dtype)
    found = check_array('x_T', noise, SHAPE, np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, noise.astype(np.float32))


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e39])
def test_numbers_that_are_not_finite_in_float32_are_refused(value):
    noise = np.zeros(SHAPE)
    noise[1, 2, 3, 0] = value
    with refused('x_T', value):
        check_array('x_T', noise, SHAPE, np.float32)
    for wrong in (value, [1.0, value]):
        with refused('scale'):
            one_for_each('scale', wrong, 2, np.float32)


@pytest.mark.parametrize('value', [7, np.int8(7), np.uint64(7), jnp.int32(7), np.array(7)])
def test_any_integer_is_a_whole_number(value):
    found = whole_number('seed', value)
    assert found == 7 and type(found) is int


@pytest.mark.parametrize('value', [1.5, 7.0, '7', None, [7], True, -1, 2**32, 10**30, np.nan])
def test_what_is_no_whole_number_in_range_is_refused(value):
    with refused('seed', value):
        whole_number('seed', value, below=2**32)
    assert whole_number('seed', 2**32 - 1, below=2**32) == 2**32 - 1
    with refused('seed', 2**70, 2**32):
        whole_number('seed', 2**70, below=2**32)


@pytest.mark.parametrize('value', [3.0, 2**31, -(2**31) - 1, np.uint64(2**63), [True, False], [1, 2, 3], '1'])
def test_labels_that_a_cast_would_change_are_refused(value):
    with refused('y', 2):
        one_for_each('y', value, 2, np.int32)


def test_one_number_is_that_of_all_images():
    np.testing.assert_array_equal(one_for_each('scale', 3, 2, np.float32), np.float32([3, 3]))
    np.testing.assert_array_equal(one_for_each('y', np.uint64([1, 2]), 2, np.int32), [1, 2])


def test_options_are_arrays_of_one_type_and_shape():
    part = traced(Interval(ClassifierGuidance(2), 0, np.float64(5)), 3)
    assert part.guidance.scale.shape == (3,) and part.guidance.scale.dtype == np.float32
    assert part.low.shape == part.high.shape == () and part.high.dtype == np.float32
    assert traced(Reuse(part), 3).every.dtype == np.int32
    for wrong in ([0.5, 1.0, 0.5], np.nan, 1e39, -0.1, 1.1, 'a', None, True):
        with refused('DDIM.eta'):
            traced(DDIM(wrong), 3)
    with refused('ClassifierGuidance.scale', -1):
        traced(ClassifierGuidance([0, -1, 3]), 3)


def test_images_that_are_not_finite_are_named():
    check_finite('samples', np.ones(3, bool), np.arange(3), '')
    finite = np.array([True, False, True, False])
    with refused('samples', '2 of 4', 'index 11, 13', 'lower scale', kind=NotFinite):
        check_finite('samples', finite, np.arange(10, 14), 'lower scale')
    with refused('samples', '9 of 9', 'index 0, 1, 2, 3, 4, …', 'weights', kind=NotFinite):
        check_finite('samples', np.zeros(9, bool), np.arange(9), 'use other weights')
