import sys

import pytest

from diffusion_jax.commands import cli


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['diffusion-jax', *arguments])
        return cli.main(), *capsys.readouterr()

    return call


def test_help_names_every_command(call):
    for arguments in ([], ['-h'], ['--help']):
        code, out, err = call(*arguments)
        assert (code, err) == (0, '')
        assert all(f'\n  {name} ' in out for name in ('run', 'convert', 'export', 'convert-inception'))


def test_an_unknown_command_is_named(call):
    code, out, err = call('dance')
    assert (code, out) == (2, '')
    assert err == 'error: dance: no such command; see --help\n'
    assert 'did you mean evaluate?' in call('evalute')[2]


def test_an_error_is_one_line(call, tmp_path):
    for arguments in (
        ['export', str(tmp_path / 'a'), '--out', 'b'],
        ['convert', 'a', 'b', '--out', 'c'],
        ['convert', 'a'],
        ['images', 'a'],
        ['evaluate', 'a', 'b', '--bootstrap=few'],
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, '')
        assert err.startswith('error: ') and err.count('\n') == 1
