"""Shorter compilation: programs are kept for the next process, and GPUs try fewer kernels."""

import contextlib
import importlib.metadata
import os
import tempfile
from pathlib import Path

import jax

VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
# Matrix products come from cuBLAS, as fast here as Triton's, which take half of the compilation to try.
CUBLAS = '--xla_gpu_enable_triton_gemm=false'
EXCLUDE = '--xla_gpu_exclude_nondeterministic_ops=true'
LARGEST = 4 * 2**30  # bytes of all entries


def use_compilation_cache() -> None:
    """Keeps compiled programs in a folder of the user, unless JAX was told where to, or not to, keep them.

    JAX_COMPILATION_CACHE_DIR names another folder; if it is empty, or the folder cannot be written, programs
    are not kept. Any number of processes and machines may share one.
    """
    if VARIABLE in os.environ or jax.config.values['jax_compilation_cache_dir']:
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        cache = Path(os.environ.get('XDG_CACHE_HOME', ''))
        folder = (cache if cache.is_absolute() else Path.home() / '.cache') / 'diffusion_jax' / 'compiled'
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            jax.config.update('jax_compilation_cache_dir', str(folder))
        _evict(folder)


def compile_fast_on_gpus() -> None:
    """Leaves matrix products on GPUs to cuBLAS, unless XLA_FLAGS say otherwise (docs/gpu.md has the numbers).

    Has no effect once JAX has looked for devices. Without JAX's plugin for CUDA nothing is changed: the flags
    are part of the key of a compiled program.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    if any('cuda' in plugin.name for plugin in plugins) and CUBLAS.split('=')[0] not in flags:
        os.environ['XLA_FLAGS'] = f'{flags} {CUBLAS}'.strip()


def keep_chosen_kernels(folder: Path) -> None:
    """Makes programs on GPUs compute the same bits in every process that keeps its programs in `folder`.

    Kernels that add in no fixed order are excluded. Of others XLA measures several candidates when it
    compiles, and JAX stores its choices with the programs: so the cache must live as long as the results of
    these programs, and replaces the user's, since a program from elsewhere brings no choices.

    Must be called before JAX looks for devices: XLA reads its flags then, once.
    """
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {EXCLUDE}'.strip()
    jax.config.update('jax_enable_compilation_cache', True)
    jax.config.update('jax_persistent_cache_enable_xla_caches', 'xla_gpu_per_fusion_autotune_cache_dir')
    jax.config.update('jax_compilation_cache_dir', str(folder))


def _evict(folder: Path) -> None:
    """Removes the entries used longest ago beyond `LARGEST` bytes.

    JAX's own limit, jax_compilation_cache_max_size, needs the package filelock, and locks the folder for each
    access, which network file systems may not support.
    """
    entries = {path: path.stat() for path in folder.glob('*-cache')}
    size = sum(stat.st_size for stat in entries.values())
    # A file system may record the time of access once a day, or never.
    for path, stat in sorted(entries.items(), key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime)):
        if size <= LARGEST:
            break
        path.unlink(missing_ok=True)
        size -= stat.st_size
