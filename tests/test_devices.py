from types import SimpleNamespace

import pytest

from diffusion_jax import devices, generation
from diffusion_jax.errors import UserError
from diffusion_jax.sharding import make_mesh


@pytest.fixture
def fail(monkeypatch):
    """JAX, told to use a platform, finds no device of it."""

    def fail(platforms, error):
        def raises():
            raise error

        config = SimpleNamespace(jax_platforms=platforms)
        monkeypatch.setattr(devices, 'jax', SimpleNamespace(devices=raises, config=config))

    return fail


@pytest.mark.parametrize(
    ('platforms', 'error', 'parts'),
    [
        ('cuda', AssertionError(), ["no 'cuda' device (JAX_PLATFORMS=cuda)", "'.[cuda]'"]),
        (
            'tpu,cpu',
            RuntimeError(
                "Unable to initialize backend 'tpu': INTERNAL: no libtpu.so (set JAX_PLATFORMS='' to choose)"
            ),
            ["no 'tpu' device (JAX_PLATFORMS=tpu,cpu; INTERNAL: no libtpu.so)", "'.[tpu]'"],
        ),
        (
            'cpuu',
            RuntimeError("Unable to initialize backend 'cpuu': not in the list of known backends"),
            ["no 'cpuu' device", 'give cpu, cuda or tpu'],
        ),
        (None, RuntimeError('broken\ndriver'), ['no device (broken)', 'JAX_PLATFORMS=cpu']),
    ],
)
def test_a_platform_that_is_not_there(fail, platforms, error, parts):
    fail(platforms, error)
    for call in (make_mesh, lambda: generation.load('any.safetensors')):
        with pytest.raises(UserError) as caught:
            call()
        assert all(part in str(caught.value) for part in parts) and '\n' not in str(caught.value)
