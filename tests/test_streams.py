"""Programs work whatever their streams are."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from diffusion_jax.errors import say
from diffusion_jax.streams import PatientStream, patient_streams
from tests.program import ROOT


class Broken:
    """Has no isatty and no flush; what is written raises."""

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    'stream',
    [
        None,
        closed(),
        Broken(BrokenPipeError(32, 'Broken pipe')),
        Broken(OSError(28, 'No space left on device')),
        Broken(ValueError('I/O operation on closed file')),
    ],
)
def test_what_cannot_be_written_is_dropped(monkeypatch, capsys, stream):
    monkeypatch.setattr(sys, 'stderr', stream)
    monkeypatch.setattr(sys, 'stdout', stream)
    say('lost')  # not on stdout either
    with patient_streams():
        print('lost')
        print('lost', file=sys.stderr, flush=True)
        assert not sys.stderr.isatty()
    assert (sys.stdout, sys.stderr) == (stream, stream)
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('encoding', 'shown'),
    [
        ('ascii', b'8\\xd78 caf\\xe9 \\udce9 \\u2026'),
        ('latin-1', b'8\xd78 caf\xe9 \\udce9 \\u2026'),
        ('utf-8', '8×8 café '.encode() + b'\\udce9 ' + '…'.encode()),
    ],
)
@pytest.mark.parametrize('errors', ['strict', 'backslashreplace'])  # of stdout, of stderr
def test_what_a_stream_cannot_encode_is_escaped(encoding, shown, errors):
    raw = io.BytesIO()
    stream = PatientStream(io.TextIOWrapper(raw, encoding, errors))
    print('8×8 café \udce9 …', file=stream, end='', flush=True)
    assert raw.getvalue() == shown


def test_errors_that_tensorstore_repeats_are_not_reported(monkeypatch):
    """Others reach the hook of the surrounding program, which comes back."""
    reported = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda event: reported.append(str(event.exc_value)))
    before = sys.unraisablehook
    with patient_streams():
        for text in ('Event loop is closed', 'Encountered error while reading array index: 0', 'another'):
            sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))
    assert reported == ['another'] and sys.unraisablehook is before


def run(command, **options):
    code = (
        f'import sys; from diffusion_jax.streams import patient_streams\nwith patient_streams():\n {command}'
    )
    buffered = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=buffered, **options).returncode


def test_a_stream_that_is_full_or_not_read_changes_no_exit_code():
    reader, writer = os.pipe()
    os.close(reader)
    with open('/dev/full', 'w') as full:
        for stream in (full, writer):
            assert run('print("lost"); sys.exit(3)', stdout=stream, stderr=stream) == 3
    os.close(writer)


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    """What a native library writes to descriptor 2 would stand in such a file."""
    command = (
        f'import os; f = open({str(tmp_path / "file")!r}, "w"); os.write(2, b"lost"); sys.exit(f.fileno())'
    )
    assert run(command, preexec_fn=lambda: (os.close(1), os.close(2))) > 2
    assert (tmp_path / 'file').read_text() == ''
