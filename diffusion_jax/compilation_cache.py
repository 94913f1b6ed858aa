"""Shorter compilation: programs are kept for the next process, and GPUs try fewer kernels."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
import time
import zlib
from pathlib import Path

import jax

VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
# Matrix products come from cuBLAS, as fast here as Triton's, which take half of the compilation to try.
CUBLAS = '--xla_gpu_enable_triton_gemm=false'
EXCLUDE = '--xla_gpu_exclude_nondeterministic_ops=true'
LARGEST = 4 * 2**30  # bytes of all entries
WRITING_SECONDS = 600.0  # an entry younger than this may still be being written


def use_compilation_cache() -> None:
    """Keeps compiled programs in a folder of the user, unless JAX was told where to, or not to, keep them.

    JAX_COMPILATION_CACHE_DIR names another folder; if it is set to nothing, programs are not kept. Programs
    that compile in less than a second are not kept either (jax_persistent_cache_min_compile_time_secs).
    Where the folder cannot be written, programs are compiled each time.

    Any number of processes and machines may use one folder: the name of an entry depends on the program, on
    the version of XLA and on the device (of a CPU on its instructions), and JAX ignores an entry that it
    cannot read. Next to the programs are the kernels that autotuning chose on GPUs.
    """
    if VARIABLE in os.environ or jax.config.jax_compilation_cache_dir:
        return
    try:
        folder = _user_cache() / 'diffusion_jax' / 'compiled'
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return
    with contextlib.suppress(OSError):
        _tidy(folder)
    jax.config.update('jax_compilation_cache_dir', str(folder))


def compile_fast_on_gpus() -> None:
    """Leaves matrix products on GPUs to cuBLAS, unless XLA_FLAGS say otherwise (docs/gpu.md has the numbers).

    Has no effect once JAX has looked for devices. Where JAX has no plugin for CUDA nothing is changed: the
    flags are part of what JAX knows a compiled program by.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    if any('cuda' in plugin.name for plugin in plugins) and CUBLAS.split('=')[0] not in flags:
        os.environ['XLA_FLAGS'] = f'{flags} {CUBLAS}'.strip()


def keep_chosen_kernels(folder: Path) -> None:
    """Makes programs on GPUs compute the same bits in every process that keeps its programs in `folder`.

    On a GPU bits differ between processes for two reasons. Some kernels add in no fixed order: they are
    excluded. For others XLA measures several candidates when it compiles, and the fastest one may be another
    next time: JAX stores these choices, and the programs, in the cache. So the cache must live as long as
    what was computed with it, and be its own: a program from elsewhere brings no choices. It is in place of
    the user's folder, and of one that JAX_COMPILATION_CACHE_DIR names.

    Must be called before JAX looks for devices, since XLA reads its flags then, once.
    """
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {EXCLUDE}'.strip()
    jax.config.update('jax_enable_compilation_cache', True)
    jax.config.update('jax_persistent_cache_enable_xla_caches', 'xla_gpu_per_fusion_autotune_cache_dir')
    jax.config.update('jax_compilation_cache_dir', str(folder))


def _user_cache() -> Path:
    given = Path(os.environ.get('XDG_CACHE_HOME', ''))
    return given if given.is_absolute() else Path.home() / '.cache'


def _tidy(folder: Path) -> None:
    """Removes entries that are cut short and, beyond `LARGEST` bytes, those that were used longest ago.

    JAX never overwrites an entry: the program of one that a full disk or a kill cut short would be compiled
    at every start. JAX's own limit, jax_compilation_cache_max_size, needs the package filelock, and locks the
    folder for every access, which network file systems may not support.
    """
    checked, until = folder / 'checked', time.time() - WRITING_SECONDS
    since = checked.stat().st_mtime if checked.exists() else 0.0
    entries = {path: path.stat() for path in folder.glob('*-cache')}
    for path, stat in list(entries.items()):
        if since <= stat.st_mtime < until and not _is_complete(path):
            path.unlink(missing_ok=True)
            del entries[path]
    checked.touch()
    os.utime(checked, (until, until))
    size = sum(stat.st_size for stat in entries.values())
    # A file system may record the time of access once a day, or never.
    for path, stat in sorted(entries.items(), key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime)):
        if size <= LARGEST:
            break
        path.unlink(missing_ok=True)
        size -= stat.st_size


def _is_complete(path: Path) -> bool:
    """False for a zlib stream that is cut short or damaged; other compressions are not checked."""
    stream, content = zlib.decompressobj(), path.read_bytes()
    if content and content[0] != 0x78:  # the first byte of a zlib stream
        return True
    try:
        stream.decompress(content)
    except zlib.error:
        return False
    return stream.eof
