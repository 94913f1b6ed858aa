import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from diffusion_jax import devices, generation
from diffusion_jax.errors import UserError
from diffusion_jax.sharding import make_mesh
from tests.program import ROOT


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


def test_a_variable_that_jax_cannot_read():
    environment = os.environ | {'JAX_NUM_CPU_DEVICES': 'x'}
    command = [sys.executable, '-m', 'diffusion_jax.main']
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
    assert 'jax_num_cpu_devices' in done.stderr
