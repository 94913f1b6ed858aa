"""The command line: bad input, help, and the console command."""

import io
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from diffusion_jax import __version__, main
from diffusion_jax.workdir import lock
from tests.program import ROOT, arguments, run


@pytest.mark.parametrize(
    ('extra', 'where'),
    [
        (['--config.train.nope=1'], 'config.train.nope'),
        (['--config.train.num_steps=many'], 'config.train.num_steps'),
        (['--config.train.batch_size=60'], 'config.train.batch_size'),
        (['--config.unet.model_channels=40'], 'config.unet'),
        (['--config.mesh.fsdp=3'], 'config.mesh'),
        (['--stage=dance'], '--stage'),
        (['--stage=train', '--config.sample.batch_size=12'], 'config.sample.batch_size'),
        (['--stage=train', '--config.data.low_res_size=(4,4)'], 'evaluate_every'),
        (['--config.sample.num_samples=3'], 'config.sample.num_samples'),
        (['--config.sample.timesteps=x'], 'config.sample.timesteps'),
        (['--config.seed=-1'], 'config.seed'),
        (['--stage=sample'], 'no checkpoint'),
        (['--config.pretrained.classifier=/nowhere'], '/nowhere/checkpoints'),
        (['--config=configs/absent.py'], 'configs/absent.py'),
        (['stray'], 'stray'),
        (['--nope'], '--nope'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capfd, extra, where):
    workdir = tmp_path / 'new'
    assert main.main([*arguments(workdir), *extra]) == 2
    err = capfd.readouterr().err.splitlines()
    assert where in err[-1] and err[-1].startswith('error: ')
    assert sum(line.startswith('error: ') for line in err) == 1 and 'Traceback' not in ''.join(err)
    assert [path.name for path in workdir.rglob('*') if path.name != '.lock'] == []


def test_a_second_run_in_one_folder_is_refused(tmp_path, capfd):
    with lock(tmp_path):
        assert run(tmp_path) == 2
    assert f'in use by process {os.getpid()}' in capfd.readouterr().err


@pytest.mark.parametrize('below', ['', 'workdir'])
def test_a_file_in_the_place_of_the_folder(tmp_path, capfd, below):
    (tmp_path / 'file').write_text('')
    assert run(tmp_path / 'file' / below) == 2
    assert f'error: {tmp_path / "file" / below}: ' in capfd.readouterr().err


def stages(monkeypatch, complete):
    """Replaces every stage by one that is complete."""
    done = SimpleNamespace(check=lambda run: None, locate=lambda run: None, complete=complete)
    monkeypatch.setattr(main, 'MODULES', dict.fromkeys(main.MODULES, done))


def test_the_program_in_a_thread_of_another(tmp_path, monkeypatch, capfd):
    stages(monkeypatch, lambda run, results: not run.stop())
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run(tmp_path, 'train')))
    thread.start()
    thread.join()
    assert codes == [0] and 'train: complete already' in capfd.readouterr().err


def test_a_stop_between_stages_ends_the_run(tmp_path, monkeypatch, capfd):
    stages(monkeypatch, lambda run, results: signal.raise_signal(signal.SIGTERM) is None)
    assert run(tmp_path, 'train,train_classifier') == 130
    assert 'stopped after the stage train;' in capfd.readouterr().err


@pytest.mark.parametrize('stream', [None, io.TextIOWrapper(io.BytesIO(), 'ascii', errors='strict')])
def test_the_program_without_a_terminal(tmp_path, monkeypatch, stream):
    monkeypatch.setattr('sys.stderr', stream)
    monkeypatch.setattr('sys.stdout', stream)
    assert main.main(['main', '--help']) == 0
    assert run(tmp_path / '\udce9', 'dance') == 2
    assert sys.stderr is stream


def test_help(capfd):
    assert main.main(['main', '--help']) == 0
    out = capfd.readouterr().out
    assert '--workdir FOLDER' in out and 'diffusion-jax configs' in out and '--heartbeat_timeout' in out


def test_the_version(capfd):
    assert main.main(['main', '--version']) == 0
    assert capfd.readouterr().out == f'diffusion_jax {__version__}\n'


def test_the_console_command(capfd):
    command = [sys.executable, '-c', 'from diffusion_jax.commands.cli import main; raise SystemExit(main())']
    assert subprocess.run([*command, 'run'], cwd=ROOT).returncode == 2
    err = capfd.readouterr().err
    assert 'error: --config: ' in err and '--config=digits' in err and 'diffusion-jax configs' in err
