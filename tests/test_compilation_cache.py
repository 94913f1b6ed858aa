import os
import platform

import jax
import pytest

from diffusion_jax.compilation_cache import VARIABLE, use_compilation_cache


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """JAX as it is where nobody says anything of a cache, and a folder for the user's caches."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    jax.config.update('jax_compilation_cache_dir', None)
    yield tmp_path
    jax.config.update('jax_compilation_cache_dir', before)


def test_programs_are_kept_in_a_folder_of_the_user(cache):
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(cache / 'diffusion_jax' / platform.node())
    assert os.path.isdir(jax.config.jax_compilation_cache_dir)


@pytest.mark.parametrize('value', ['', '/elsewhere'])
def test_the_variable_of_jax_decides(cache, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None and not os.listdir(cache)


def test_a_folder_that_cannot_be_made_is_done_without(cache):
    (cache / 'diffusion_jax').write_text('a file')
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
