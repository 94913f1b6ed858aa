"""The exit code and the line of every way to end."""

import copy
import errno
import logging
import pickle
from types import SimpleNamespace

import jax
import pytest

from diffusion_jax import main
from diffusion_jax.commands import cli
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.errors import UserError, reason
from diffusion_jax.exits import exit_code
from diffusion_jax.interruption import Interrupted


def ends(error):
    def program():
        raise error

    return program


@pytest.mark.parametrize(
    ('error', 'code', 'line'),
    [
        (UserError('x', 'got\n3', 'must be 4'), 2, 'error: x: got 3; must be 4'),
        (Interrupted('stopped at 5'), 130, 'stopped at 5; give the same command'),
        (KeyboardInterrupt(), 130, 'interrupted'),
        (OSError(errno.ENOSPC, 'No space left on device', 'out.npz'), 2, 'error: out.npz: No space left'),
        (OSError(errno.EDQUOT, 'Disk quota exceeded'), 2, 'make room'),
        (PermissionError(errno.EACCES, 'Permission denied', 'secret'), 2, 'error: secret: '),
        (SystemExit(0), 0, ''),
        (SystemExit(3), 3, ''),
        (MemoryError(), 2, 'error: memory: out of memory'),
        (
            jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 5000 bytes.'),
            2,
            '5,000 bytes',
        ),
    ],
)
def test_exit_codes_and_lines(capsys, error, code, line):
    assert exit_code(ends(error)) == code
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == bool(line) and line in err


@pytest.mark.parametrize('error', [UserError('x', 'got 3', 'must be 4'), UnreadableImage('x.png', 'damaged')])
def test_errors_are_pickled_and_copied(error):
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error) and str(other) == str(error) and vars(other) == vars(error)


def test_commands_end_as_the_program_does(monkeypatch, capsys):
    for name, error, code in (('convert', UserError('x', 'bad'), 2), ('evaluate', KeyboardInterrupt(), 130)):
        module = SimpleNamespace(main=lambda _, error=error: ends(error)())
        monkeypatch.setitem(cli.COMMANDS, name, module)
        monkeypatch.setattr('sys.argv', ['diffusion-jax', name])
        assert cli.main() == code
        assert capsys.readouterr().err.count('\n') == 1


def test_an_error_of_ours_is_raised():
    with pytest.raises(KeyError):
        exit_code(ends(KeyError('x')))


def test_whatever_fails_where_jax_finds_no_device_is_that(monkeypatch, capsys):
    monkeypatch.setattr(jax, 'devices', ends(AssertionError()))
    assert exit_code(ends(AssertionError())) == 2
    assert 'JAX_PLATFORMS' in capsys.readouterr().err


def test_a_reason_is_one_line_and_never_empty():
    assert reason(KeyError()) == 'KeyError'
    assert reason(ValueError('\n  first\nsecond')) == 'first'
    assert reason(OSError(errno.EROFS, None)) == 'Read-only file system'
    assert len(reason(ValueError('x' * 1000))) < 210


def test_logging_writes_to_streams_that_fail(monkeypatch):
    monkeypatch.setattr('sys.stderr', None)
    main.set_up()
    logging.getLogger('diffusion_jax').warning('lost')
