"""JAX's persistent compilation cache: a program that was compiled once starts in seconds the next time."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import jax

VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def use_compilation_cache() -> None:
    """Keeps compiled programs in a folder of the user, unless JAX was told where to, or not to, keep them.

    JAX_COMPILATION_CACHE_DIR names another folder; if it is set to nothing, programs are not kept. Programs
    that compile in less than a second are not kept either (jax_persistent_cache_min_compile_time_secs).
    Where the folder cannot be written, programs are compiled each time.
    """
    if VARIABLE in os.environ or jax.config.jax_compilation_cache_dir:
        return
    try:
        # Programs for CPUs have the instructions of this machine; a home may be shared by several.
        folder = _user_cache() / 'diffusion_jax' / platform.node()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return
    jax.config.update('jax_compilation_cache_dir', str(folder))


def _user_cache() -> Path:
    given = Path(os.environ.get('XDG_CACHE_HOME', ''))
    return given if given.is_absolute() else Path.home() / '.cache'
