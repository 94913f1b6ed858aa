import jax
import pytest

from diffusion_jax import generation
from diffusion_jax.devices import no_device
from diffusion_jax.errors import UserError
from diffusion_jax.sharding import make_mesh


@pytest.mark.parametrize(
    ('platforms', 'error', 'where', 'problem', 'remedy'),
    [
        ('cuda', AssertionError(), 'JAX_PLATFORMS', "'cuda'", "'.[cuda]'"),
        ('tpu,cpu', RuntimeError('no libtpu.so\nmore'), 'JAX_PLATFORMS', 'no libtpu.so', "'.[tpu]'"),
        (None, RuntimeError('broken driver'), 'JAX', 'broken driver', 'JAX_PLATFORMS=cpu'),
    ],
)
def test_a_missing_device_is_reported_with_a_remedy(platforms, error, where, problem, remedy):
    found = no_device(platforms, error)
    assert found.where == where and problem in found.problem and remedy in found.remedy


def test_any_call_that_needs_a_device_reports_that_there_is_none(monkeypatch):
    def fail():
        raise RuntimeError('no libtpu.so')

    monkeypatch.setattr(jax, 'devices', fail)
    for call in (make_mesh, lambda: generation.load('any.safetensors')):
        with pytest.raises(UserError, match='no libtpu'):
            call()
