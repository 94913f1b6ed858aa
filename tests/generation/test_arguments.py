import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierGuidance, Interval
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import (
    NotFinite,
    check_array,
    check_finite_rows,
    check_samples,
    one_for_each,
    real_number,
    whole_number,
)

SHAPE = (2, 4, 4, 1)
DARK = np.full(SHAPE, 0x34, np.uint8)


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_integers_that_fit_become_uint8(dtype):
    found = check_array('images', DARK.astype(dtype), SHAPE, np.uint8)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, DARK)


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (DARK.astype(np.uint16) + 0x1200, r'images is uint16 .* from 4660 to 4660; it must be uint8 \(2, 4'),
        (DARK.astype(np.int64) - 256, r'images is int64 .* from -204 to -204'),
        (DARK / 255, r'images is float64 \(2, 4, 4, 1\); it must be uint8'),
        (DARK.astype(np.float32), 'images is float32'),
        (DARK > 0, 'images is bool'),
        (DARK[:1], r'images is uint8 \(1, 4, 4, 1\); it must be uint8 \(2, 4, 4, 1\)'),
        ([[1], [2, 3]], r'images is \[\[1\], \[2, 3\]\]; it must be uint8'),
        (None, 'images is object'),
    ],
)
def test_images_that_a_cast_would_change_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        check_array('images', images, SHAPE, np.uint8)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_noise_of_any_floating_type_becomes_float32(dtype):
    noise = np.linspace(-3, 3, 32).reshape(SHAPE).astype(dtype)
    found = check_array('x_T', noise, SHAPE, np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, noise.astype(np.float32))


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e39])
def test_noise_that_is_not_finite_is_refused_by_its_place(value):
    noise = np.zeros(SHAPE)
    noise[1, 2, 3, 0] = value
    with pytest.raises(UserError) as error:
        check_array('x_T', noise, SHAPE, np.float32)
    assert f'x_T is {value} at [1, 2, 3, 0]' in str(error.value)


@pytest.mark.parametrize('value', [7, np.int8(7), np.uint64(7), jnp.int32(7), np.array(7)])
def test_any_integer_is_a_whole_number(value):
    found = whole_number('seed', value)
    assert found == 7 and type(found) is int


@pytest.mark.parametrize('value', [1.5, 7.0, '7', None, [7], True, -1, 2**32, 10**30, np.nan])
def test_what_is_no_whole_number_in_range_is_refused(value):
    with pytest.raises(UserError, match='seed is '):
        whole_number('seed', value, below=2**32)


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e39, -0.1, 1.1, 'a', None, [0.5], True])
def test_what_is_no_real_number_in_range_is_refused(value):
    with pytest.raises(UserError, match='eta is '):
        real_number('eta', value, 0, most=1)
    assert real_number('eta', np.float32(0.5), 0, most=1) == 0.5


@pytest.mark.parametrize('value', [3.0, 2**31, -(2**31) - 1, np.uint64(2**63), [True, False], [1, 2, 3], '1'])
def test_labels_that_a_cast_would_change_are_refused(value):
    with pytest.raises(UserError, match='y is .*; give one number, or one for each of the 2 images'):
        one_for_each('y', value, 2, np.int32)


@pytest.mark.parametrize('value', [np.nan, [1.0, np.inf], [1.0, 1e39], 1e39, True, '1', [[1.0, 2.0]]])
def test_scales_that_float32_does_not_hold_are_refused(value):
    with pytest.raises(UserError, match='scale is .*; give one number'):
        one_for_each('scale', value, 2, np.float32)


def test_one_serves_for_all():
    np.testing.assert_array_equal(one_for_each('scale', 3, 2, np.float32), np.float32([3, 3]))
    np.testing.assert_array_equal(one_for_each('y', np.uint64([1, 2]), 2, np.int32), [1, 2])


def test_samples_that_are_not_finite_are_named_with_the_scale_to_lower():
    finite, scale = np.array([True, False, True, False]), np.float32([1, 1e30, 1, 1])
    recipe = Recipe(DDIM(0.5), (Interval(ClassifierGuidance(scale)),))
    how = r'\(DDIM\(eta 0\.5\), ClassifierGuidance\(scale 1e\+30\)\); lower scale'
    with pytest.raises(NotFinite, match=rf'2 of 4 images \(index 11, 13\) are not finite {how}'):
        check_samples(finite, 10, recipe)
    with pytest.raises(NotFinite, match=r'DDIM\(eta 0\.5\), without guidance'):
        check_samples(finite, 10, recipe.unguided())
    check_samples(np.ones(4, bool), 10, recipe)


def test_rows_that_are_not_finite_are_named():
    rows = np.ones((3, 2))
    check_finite_rows('total', rows, np.arange(3))
    rows[1, 1] = np.inf
    with pytest.raises(NotFinite, match=r'total of 1 of 3 images \(index 6\)'):
        check_finite_rows('total', rows, np.array([5, 6, 7]))
