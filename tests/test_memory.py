import jax
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.memory import OutOfMemory, describe, is_out_of_memory, out_of_memory


def jax_error(text):
    return jax.errors.JaxRuntimeError(text)


@pytest.mark.parametrize(
    ('error', 'amount'),
    [
        (
            jax_error('RESOURCE_EXHAUSTED: Out of memory allocating 118189471424 bytes.'),
            ' (118,189,471,424 bytes)',
        ),
        (
            jax_error('RESOURCE_EXHAUSTED: TPU compile error. Ran out of memory. Used 20.5G of 15.75G hbm.'),
            ' (Used 20.5G of 15.75G)',
        ),
        (jax_error('Ran out of memory in memory space hbm.'), ''),
        (
            jax_error('RESOURCE_EXHAUSTED: Failed to allocate request for 1.50GiB (1610612736B) on device 0'),
            ' (1.50GiB)',
        ),
        (jax_error('RESOURCE_EXHAUSTED: Attempting to allocate 8.00G. Not possible.'), ' (8.00G)'),
        (MemoryError('Unable to allocate 1.16 TiB for an array with shape (9,)'), ' (1.16 TiB)'),
        (MemoryError(), ''),
    ],
)
def test_the_amount(error, amount):
    assert is_out_of_memory(error)
    assert describe(error) == f'out of memory{amount}'


def test_other_errors_pass():
    for error in (ValueError('out of memory'), jax_error('INVALID_ARGUMENT: shapes')):
        with pytest.raises(type(error), match=str(error)), out_of_memory('sampling', 'lower x'):
            raise error


def test_the_innermost_part_is_named():
    with pytest.raises(UserError) as caught:
        with out_of_memory('training', 'lower b'), out_of_memory('sampling', 'lower a'):
            np.empty(10**15)
    error = caught.value
    assert (error.where, error.problem, error.remedy) == ('sampling', 'out of memory (7.11 PiB)', 'lower a')


def test_the_remedy_of_a_stage_replaces_that_of_a_call():
    with pytest.raises(UserError) as caught:
        with out_of_memory('training', 'lower b'), out_of_memory('sampling', 'lower config.x'):
            with out_of_memory('the call', 'lower num_images', OutOfMemory):
                raise jax_error('RESOURCE_EXHAUSTED: Out of memory allocating 5000000000 bytes.')
    error = caught.value
    assert (error.where, error.problem, error.remedy) == (
        'sampling',
        'out of memory (5,000,000,000 bytes)',
        'lower config.x',
    )
