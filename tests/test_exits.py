"""The exit code and the line of every way to end."""

import errno
import logging
from types import SimpleNamespace

import jax
import pytest

from diffusion_jax import devices, main
from diffusion_jax.commands import cli
from diffusion_jax.errors import CheckFailed, UserError, reason
from diffusion_jax.exits import exit_code
from diffusion_jax.interruption import Interrupted


def ends(error):
    def program():
        raise error

    return program


@pytest.mark.parametrize(
    ('error', 'code', 'line'),
    [
        (UserError('x is 3;\nit must be 4'), 2, 'error: x is 3; it must be 4'),
        (CheckFailed('too few'), 1, 'check failed: too few'),
        (Interrupted('stopped at 5'), 130, 'stopped at 5; give the same command'),
        (KeyboardInterrupt(), 130, 'interrupted'),
        (OSError(errno.ENOSPC, 'No space left on device', 'out.npz'), 2, 'error: out.npz: No space left'),
        (OSError(errno.EDQUOT, 'Disk quota exceeded'), 2, 'make room'),
        (PermissionError(errno.EACCES, 'Permission denied', 'secret'), 2, 'error: secret: '),
        (OSError(errno.EROFS, 'Read-only file system', 'a/b'), 2, 'a/b: cannot be used (Read-only'),
        (MemoryError(), 2, 'error: out of memory'),
        (
            jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 5000 bytes.'),
            2,
            '5,000 bytes',
        ),
    ],
)
def test_an_error_of_a_user_is_one_line(capsys, error, code, line):
    assert exit_code(ends(error)) == code
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and line in err


def test_commands_end_as_the_program_does(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, 'convert', ('', lambda _: ends(CheckFailed('bad'))()))
    monkeypatch.setitem(cli.COMMANDS, 'evaluate', ('', lambda _: ends(KeyboardInterrupt())()))
    for name, code in (('convert', 1), ('evaluate', 130)):
        monkeypatch.setattr('sys.argv', ['diffusion-jax', name])
        assert cli.main() == code
        assert capsys.readouterr().err.count('\n') == 1


def test_an_error_of_ours_is_raised():
    with pytest.raises(KeyError):
        exit_code(ends(KeyError('x')))


def test_whatever_fails_where_jax_finds_no_device_is_that(monkeypatch, capsys):
    config = SimpleNamespace(jax_platforms='cuda')
    monkeypatch.setattr(
        devices, 'jax', SimpleNamespace(devices=lambda: ends(AssertionError())(), config=config)
    )
    assert exit_code(ends(AssertionError())) == 2
    assert "no 'cuda' device (JAX_PLATFORMS=cuda)" in capsys.readouterr().err


def test_a_reason_is_one_line_and_never_empty():
    assert reason(KeyError()) == 'KeyError'
    assert reason(ValueError('\n  first\nsecond')) == 'first'
    assert reason(OSError(errno.EROFS, None)) == 'Read-only file system'
    assert len(reason(ValueError('x' * 1000))) < 210


def test_logging_writes_to_streams_that_fail(monkeypatch):
    monkeypatch.setattr('sys.stderr', None)
    main.set_up_logging()
    logging.getLogger('diffusion_jax').warning('lost')
