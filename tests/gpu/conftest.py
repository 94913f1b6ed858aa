"""Tests of a GPU against the CPU of the same machine: `make test-gpu`, at most 4 minutes."""

import os

import jax
import pytest

# Tests also start programs that use the device; none may take its whole memory.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


@pytest.fixture(autouse=True)
def _asked_for():
    if not os.environ.get('TEST_GPU'):
        pytest.skip('tests of a GPU: make test-gpu')


@pytest.fixture(scope='session')
def devices():
    """The device that is tested, and a CPU to compare it with."""
    return jax.devices()[0], jax.devices('cpu')[-1]
