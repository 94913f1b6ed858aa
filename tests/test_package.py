"""What `import diffusion_jax` offers."""

import functools
import inspect
import subprocess
import sys
import textwrap

import diffusion_jax
from tests.generation.test_loading import save_run


def test_importing_imports_nothing_else():
    code = 'import sys, diffusion_jax; print("jax" in sys.modules, *dir(diffusion_jax))'
    heavy, *names = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert heavy == 'False'
    assert {'load', 'show', 'Generator', 'Samples', 'trajectory', 'UserError', 'generation'} <= set(names)


def test_every_name_is_there():
    for name in dir(diffusion_jax):
        assert getattr(diffusion_jax, name)
    assert not hasattr(diffusion_jax, 'nothing')


def test_the_tour(tmp_path, monkeypatch):
    """The lines of the docstring, with few steps."""
    lines = [line for line in inspect.getdoc(diffusion_jax).splitlines() if line.startswith('    ')]
    save_run(tmp_path / 'runs' / 'digits')
    monkeypatch.chdir(tmp_path)
    generator = diffusion_jax.Generator
    few = {'respacing': 'ddim2', 'sampler': 'ddim'}
    for name, given in (('sample', few), ('invert', {'respacing': 'ddim2'})):
        monkeypatch.setattr(generator, name, functools.partialmethod(getattr(generator, name), **given))
    scope = {}
    exec(textwrap.dedent('\n'.join(lines)), scope)
    for name in ('samples', 'more', 'other'):
        assert scope[name].images.shape == (8, 8, 8, 1)
    assert scope['codes'].shape == (8, 8, 8, 1)
    assert (tmp_path / 'threes.png').stat().st_size
