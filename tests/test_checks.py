import numpy as np
import pytest

from diffusion_jax.checks import LARGEST, between, in_section, not_finite, one_of
from diffusion_jax.errors import UserError


@pytest.mark.parametrize(
    ('value', 'limits', 'valid'),
    [
        (1, {}, True),
        (0.99, {}, False),
        (LARGEST, {}, True),
        (2 * LARGEST, {}, False),
        (float('nan'), {}, False),
        (3, {'below': 4}, True),
        (4, {'below': 4}, False),
        (4, {'most': 4}, True),
        (4.01, {'most': 4}, False),
    ],
)
def test_between(value, limits, valid):
    if valid:
        between('key', value, 1, **limits)
        return
    with pytest.raises(UserError) as error:
        between('key', value, 1, **limits)
    assert (error.value.where, error.value.problem) == ('key', f'got {value}')
    assert 'at least 1' in error.value.remedy
    assert all(str(limit) in error.value.remedy for limit in limits.values())


def test_an_error_names_the_section():
    in_section('train', one_of, 'key', 'a', ('a', 'b'))
    with pytest.raises(UserError) as error:
        in_section('train', one_of, 'key', 'c', ('a', 'b'))
    assert error.value.where == 'config.train.key' and error.value.problem == "got 'c'"
    assert "'a', 'b'" in error.value.remedy


def test_the_first_value_that_float32_cannot_hold():
    assert not_finite(np.array([LARGEST, 1e-300])) == ''
    assert not_finite(np.array([[0, 1], [1e39, np.nan]])) == '1e+39 at [1, 0]'
