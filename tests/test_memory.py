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
        (jax_error('RESOURCE_EXHAUSTED: Out of memory allocating 118189471424 bytes.'), '118 GB asked for'),
        (
            jax_error('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 118189471424 bytes.'),
            '118 GB asked for',
        ),
        (
            jax_error(
                'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
                'Used 20.5G of 15.75G hbm. Exceeded hbm capacity by 4.75G.'
            ),
            '20.5 GiB needed, 15.75 GiB available',
        ),
        (
            jax_error('Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm'),
            '20.5 GiB needed, 15.75 GiB available',
        ),
        (
            jax_error(
                'RESOURCE_EXHAUSTED: Failed to allocate request for 1.50GiB (1610612736B) on device ordinal 0'
            ),
            '1.61 GB asked for',
        ),
        (
            jax_error('RESOURCE_EXHAUSTED: Attempting to allocate 8.00G. That was not possible.'),
            '8.00 GiB asked for',
        ),
        (MemoryError('Unable to allocate 1.16 TiB for an array with shape (9,)'), '1.16 TiB asked for'),
        (MemoryError('Unable to allocate 146. TiB for an array with shape (9,)'), '146 TiB asked for'),
        (MemoryError(), 'out of memory'),
    ],
)
def test_how_much_was_asked_for(error, amount):
    assert is_out_of_memory(error)
    assert amount in describe(error)


def test_other_errors_pass():
    for error in (ValueError('out of memory'), jax_error('INVALID_ARGUMENT: shapes')):
        with pytest.raises(type(error), match=str(error)), out_of_memory('sampling', 'lower x'):
            raise error


def test_the_innermost_part_is_named():
    with pytest.raises(UserError, match='in sampling; lower a') as caught:
        with out_of_memory('training', 'lower b'), out_of_memory('sampling', 'lower a'):
            np.empty(10**15)
    assert 'out of memory (7.11 PiB asked for)' in str(caught.value)


def test_a_stage_knows_better_than_a_call():
    with pytest.raises(UserError, match='GB asked for.* in sampling; lower config.x') as caught:
        with out_of_memory('training', 'lower b'), out_of_memory('sampling', 'lower config.x'):
            with out_of_memory('the call', 'lower num_images', OutOfMemory):
                raise jax_error('RESOURCE_EXHAUSTED: Out of memory allocating 5000000000 bytes.')
    assert 'num_images' not in str(caught.value)
