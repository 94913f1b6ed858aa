import jax
import pytest

from diffusion_jax import generation
from diffusion_jax.sharding import make_mesh
from tests.errors import refused


@pytest.mark.parametrize('error', [AssertionError(), RuntimeError('no libtpu.so\nmore')])
def test_any_call_that_needs_a_device_reports_that_there_is_none(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(jax, 'devices', fail)
    for call in (make_mesh, lambda: generation.load('any.safetensors')):
        with refused('JAX_PLATFORMS', 'cpu', 'no libtpu.so' if str(error) else 'AssertionError', "'.[tpu]'"):
            call()
