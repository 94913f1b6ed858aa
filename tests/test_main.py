"""The command line: bad input, help, and the console command."""

import io
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from diffusion_jax import __version__, main
from diffusion_jax.training import loop
from diffusion_jax.workdir import lock
from tests.program import ROOT, arguments, run


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (['--config.nope=1'], 'config.nope: no such setting'),
        (['--config.train.nope=1'], 'config.train.nope: no such setting'),
        (['--config.train.num_steps=many'], "config.train.num_steps is 'many'; it must be a whole number"),
        (['--config.train.batch_size=60'], 'config.train.batch_size is 60; it must be divisible by 8'),
        (['--config.unet.model_channels=40'], 'multiple of 32'),
        (['--config.data.image_channels=3'], 'config.data.image_channels is 3'),
        (['--config.sample.classes=(11,)'], 'config.sample.classes is 11'),
        (['--config.mesh.fsdp=3'], 'config.mesh has data=-1, fsdp=3; their product must be 8'),
        (['--stage=dance'], "--stage is 'dance'; it must be one of"),
        (
            ['--stage=sample'],
            'diffusion/checkpoints: no checkpoint of the diffusion; set config.pretrained.diffusion',
        ),
        (['--config.pretrained.classifier=/nowhere'], '/nowhere/checkpoints: no checkpoint'),
        (['--stage=train', '--config.sample.batch_size=12'], 'config.sample.batch_size is 12'),
        (['--stage=train', '--config.data.low_res_size=(4,4)'], 'evaluate_every is set; an upsampler'),
        (['--config.sample.num_samples=3'], 'config.sample.num_samples is below 4'),
        (
            ['--config.sample.sampler=hein'],
            "config.sample.sampler is 'hein'; it must be one of 'ddpm',",
        ),
        (['--config.sample.sampler=ddim:eta=2'], 'eta is 2.0; it must be at least 0 and at most 1'),
        (
            ['--config.sample.guidance=classifier:scal=2'],
            "config.sample.guidance is 'classifier:scal=2'; classifier has no option 'scal', its options are",
        ),
        (['--config.sample.guidance=classifier/x'], "what follows / is 'x'; it must be one of 'interval'"),
        (
            ['--config.sample.guidance=classifier_free'],
            'config.sample.guidance is classifier_free; it needs a class-conditional diffusion model',
        ),
        (
            ['--config.sample.respacing=karras:x'],
            "config.sample.respacing is 'karras:x': 'x' must be the number of levels, at least 1",
        ),
        (['--config.sample.timesteps=x'], "config.sample.timesteps is 'x'; it must be one of 'fractional'"),
        (['--config.sample.recipe=paper-ddim'], "config.sample.recipe is 'paper-ddim'; the model is none of"),
        (['--config.seed=-1'], 'config.seed is -1'),
        (['--config.sample.seed=4294967296'], 'config.sample.seed is 4294967296'),
        (['stray'], 'stray: unrecognized'),
        (['workdir=x'], 'workdir=x: unrecognized; did you mean --workdir=x?'),
        (['--config=configs/absent.py'], 'configs/absent.py: no such config file'),
        (['--nope'], 'nope'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capfd, extra, message):
    workdir = tmp_path / 'new'
    assert main.main([*arguments(workdir), *extra]) == 2
    err = capfd.readouterr().err.splitlines()
    assert message in err[-1] and err[-1].startswith('error: ')
    assert sum(line.startswith('error: ') for line in err) == 1 and 'Traceback' not in ''.join(err)
    assert [path.name for path in workdir.rglob('*') if path.name != '.lock'] == []


def test_a_misspelt_setting_is_guessed(tmp_path, capfd):
    assert main.main([*arguments(tmp_path), '--config.train.num_step=3']) == 2
    assert 'did you mean config.train.num_steps?' in capfd.readouterr().err


def test_a_second_run_in_one_folder_is_refused(tmp_path, capfd):
    with lock(tmp_path):
        assert run(tmp_path) == 2
    assert f'in use by process {os.getpid()}' in capfd.readouterr().err


@pytest.mark.parametrize('below', ['', 'workdir'])
def test_a_file_in_the_place_of_the_folder(tmp_path, capfd, below):
    (tmp_path / 'file').write_text('')
    assert run(tmp_path / 'file' / below) == 2
    assert f'error: {tmp_path / "file"}: is a file; --workdir needs a folder' in capfd.readouterr().err


def test_a_batch_that_no_memory_holds(tmp_path, monkeypatch, capfd):
    def no_memory(*_, **__):
        raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 118189471424 bytes.')

    monkeypatch.setattr(loop, 'run', no_memory)
    assert run(tmp_path, 'train', train__evaluate_every=0) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert 'a training step of the diffusion model: out of memory (118,189,471,424 bytes); ' in error
    for setting in (
        'config.train.batch_size (16)',
        'config.train.microbatches',
        'config.unet.remat=True',
    ):
        assert setting in error


def test_the_program_in_a_thread_of_another(tmp_path, monkeypatch, capfd):
    done = SimpleNamespace(complete=lambda run: not run.stop())
    monkeypatch.setattr(main, 'MODULES', dict.fromkeys(main.MODULES, done))
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run(tmp_path, 'train')))
    thread.start()
    thread.join()
    assert codes == [0] and 'train: complete already' in capfd.readouterr().err


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
    assert '--workdir=FOLDER' in out and 'diffusion-jax configs' in out and '--heartbeat_timeout' in out


def test_the_version(capfd):
    assert main.main(['main', '--version']) == 0
    assert capfd.readouterr().out == f'diffusion_jax {__version__}\n'


def test_the_console_command(capfd):
    command = [sys.executable, '-c', 'from diffusion_jax.commands.cli import main; raise SystemExit(main())']
    assert subprocess.run([*command, 'run'], cwd=ROOT).returncode == 2
    err = capfd.readouterr().err
    assert 'usage: ' in err and '--config=digits' in err and 'diffusion-jax configs' in err
    assert subprocess.run([*command, 'dance'], cwd=ROOT).returncode == 2
    assert 'usage: diffusion-jax' in capfd.readouterr().err
