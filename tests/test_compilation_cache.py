import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import diffusion_jax
from diffusion_jax import compilation_cache, main
from diffusion_jax.compilation_cache import VARIABLE, use_compilation_cache
from tests.program import ROOT, arguments


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """JAX as it is where nobody says anything of a cache, and a folder for the user's caches."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    jax.config.update('jax_compilation_cache_dir', None)
    yield tmp_path
    jax.config.update('jax_compilation_cache_dir', before)


@pytest.fixture
def folder(cache):
    """The folder of the programs, with files to put there."""
    path = cache / 'diffusion_jax' / 'compiled'
    path.mkdir(parents=True)
    return path


def entry(folder, name, content, age):
    path = folder / f'{name}-cache'
    path.write_bytes(content)
    then = os.stat(path).st_mtime - age
    os.utime(path, (then, then))
    return path


def test_programs_are_kept_in_a_folder_of_the_user(cache):
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(cache / 'diffusion_jax' / 'compiled')
    assert os.path.isdir(jax.config.jax_compilation_cache_dir)


def test_a_relative_folder_for_caches_is_ignored(cache, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
    monkeypatch.setenv('HOME', str(cache))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(cache / '.cache' / 'diffusion_jax' / 'compiled')


def test_a_model_opened_from_python_keeps_its_programs(cache):
    diffusion_jax.load(Path(__file__).parent / 'versions' / '2026-11-26' / 'diffusion.safetensors')
    assert jax.config.jax_compilation_cache_dir == str(cache / 'diffusion_jax' / 'compiled')


@pytest.mark.parametrize('value', ['', '/elsewhere'])
def test_the_variable_of_jax_decides(cache, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None and not os.listdir(cache)


def test_what_jax_was_told_decides(cache):
    jax.config.update('jax_compilation_cache_dir', '/elsewhere')
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == '/elsewhere' and not os.listdir(cache)


def test_a_folder_that_cannot_be_made_is_done_without(cache):
    (cache / 'diffusion_jax').write_text('a file')
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_beyond_the_limit_what_was_used_longest_ago_goes(folder, monkeypatch):
    monkeypatch.setattr(compilation_cache, 'LARGEST', 25)
    content = b'\x28' * 10
    paths = [entry(folder, f'{i}', content, 100.0 * i) for i in range(4)]
    read_today = paths[3]
    os.utime(read_today, (os.stat(paths[0]).st_atime + 1, os.stat(read_today).st_mtime))
    use_compilation_cache()
    assert [path.exists() for path in paths] == [True, False, False, True]


def test_a_deterministic_run_keeps_its_programs_in_its_folder(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(main, 'keep_chosen_kernels', folders.append)
    monkeypatch.setattr(main, 'run_experiment', lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert main.main(arguments('run')) == 0 and not folders
    assert main.main(arguments('run', deterministic=True)) == 0
    assert folders == [tmp_path / 'run' / 'compiled']


def test_xla_knows_the_flags_and_programs_are_kept(tmp_path):
    """XLA ends a process that has a flag that it does not know, or a value that it cannot read."""
    program = f"""
import os, pathlib, jax
from diffusion_jax.compilation_cache import keep_chosen_kernels, use_compilation_cache
use_compilation_cache()
keep_chosen_kernels(pathlib.Path({str(tmp_path / 'compiled')!r}))
print(os.environ['XLA_FLAGS'], float(jax.jit(lambda x: x + 1)(1.0)))
"""
    settings = {'XLA_FLAGS': '--xla_dump_max_hlo_modules=1', 'JAX_ENABLE_COMPILATION_CACHE': '0'}
    command = [sys.executable, '-c', program]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True)
    flags = '--xla_dump_max_hlo_modules=1 --xla_gpu_exclude_nondeterministic_ops=true'
    assert done.stdout == f'{flags} 2.0\n', done.stderr
    assert list((tmp_path / 'compiled').glob('*-cache'))


@pytest.mark.parametrize(
    ('plugin', 'flags', 'expected'),
    [
        ('xla_cuda12', '--a=1', f'--a=1 {compilation_cache.CUBLAS}'),
        ('xla_cuda12', '--xla_gpu_enable_triton_gemm=true', '--xla_gpu_enable_triton_gemm=true'),
        ('libtpu', '', ''),
    ],
)
def test_matrix_products_of_gpus_are_left_to_cublas(monkeypatch, plugin, flags, expected):
    monkeypatch.setattr('importlib.metadata.entry_points', lambda group: [SimpleNamespace(name=plugin)])
    monkeypatch.setenv('XLA_FLAGS', flags)
    compilation_cache.compile_fast_on_gpus()
    assert os.environ['XLA_FLAGS'] == expected
