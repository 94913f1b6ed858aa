"""The program as its users run it, on the digits with the smallest networks."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from diffusion_jax import main
from diffusion_jax.workdir import lock

ROOT = Path(__file__).parent.parent
TINY = {
    'diffusion.num_timesteps': 50,
    'train.num_steps': 6,
    'train.batch_size': 16,
    'train.warmup_steps': 0,
    'train.log_every': 2,
    'train.sample_every': 3,
    'train.evaluate_every': 3,
    'train.evaluate_samples': 20,
    'train.checkpoint_every': 3,
    'train_classifier.num_steps': 4,
    'train_classifier.batch_size': 16,
    'train_classifier.log_every': 2,
    'train_classifier.validate_every': 2,
    'sample.respacing': '5',
    'sample.num_samples': 20,
    'sample.batch_size': 16,
    'evaluate.required_agreement': 0.0,
} | {
    f'{network}.{key}': value
    for network in ('unet', 'classifier')
    for key, value in {'channel_mult': '(1,)', 'num_res_blocks': 1, 'attention_resolutions': '()'}.items()
}


def arguments(workdir, stage='', **changes):
    settings = TINY | {key.replace('__', '.'): value for key, value in changes.items()}
    flags = [f'--config.{key}={value}' for key, value in settings.items()]
    stages = [f'--stage={stage}'] if stage else []
    return ['main', f'--config={ROOT / "configs" / "digits.py"}', f'--workdir={workdir}', *stages, *flags]


def run(workdir, stage='', **changes):
    return main.main(arguments(workdir, stage, **changes))


@functools.cache
def leaves(checkpoint):
    """Every array of a checkpoint by its path."""
    items = {}
    for item in ('params', 'ema_0.995', 'training'):
        path = Path(checkpoint) / item
        if path.is_dir():
            tree = ocp.StandardCheckpointer().restore(path)
            items |= {f'{item}{jax.tree_util.keystr(key)}': np.asarray(leaf) for key, leaf in flatten(tree)}
    return items


def flatten(tree):
    def plain(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree_util.tree_flatten_with_path(jax.tree.map(plain, tree))[0]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('digits')
    assert run(workdir) == 0
    return workdir


def test_all_that_a_run_leaves(finished):
    for network, steps in (('diffusion', [2, 4, 6]), ('classifier', [2, 4])):
        lines = logged(finished / network)
        assert {line['step'] for line in lines if 'loss' in line} == set(steps)
        assert all(np.isfinite(line['loss']) for line in lines if 'loss' in line)
        assert list((finished / network).glob('events.out.tfevents.*'))
    assert any('validation_accuracy' in line for line in lines)
    evaluated = [line for line in logged(finished / 'diffusion') if 'sample_recall' in line]
    assert [line['step'] for line in evaluated] == [3, 6]
    assert all(line['sample_frechet_distance'] > 0 and 0 <= line['sample_recall'] <= 1 for line in evaluated)
    assert sorted(path.name for path in (finished / 'diffusion' / 'grids').iterdir()) == [
        'step_00000003.png',
        'step_00000006.png',
    ]
    with np.load(finished / 'samples' / 'samples.npz') as samples:
        assert samples['arr_0'].shape == (20, 8, 8, 1) and samples['arr_0'].dtype == np.uint8
        np.testing.assert_array_equal(samples['arr_1'], np.arange(20) % 10)
    shards = sorted(path.name for path in (finished / 'samples' / 'shards').iterdir())
    assert shards == ['00000000-00000016.npz', '00000016-00000020.npz']
    grid = Image.open(finished / 'samples' / 'grid.png')
    assert grid.height > 10 * 48 and grid.width > 2 * 48


def test_what_the_evaluation_says(finished):
    result = json.loads((finished / 'evaluation.json').read_text())
    assert result['num_samples'] == 20
    for name in ('label_agreement', 'unguided_label_agreement', 'precision', 'recall', 'judge_test_accuracy'):
        assert 0 <= result[name] <= 1
    assert result['frechet_distance'] > result['real_frechet_distance'] > 0
    protocol = result['protocol']
    assert protocol['sampler'] == 'ddim' and protocol['steps'] == 5 and protocol['checkpoint_step'] == 6
    assert protocol['scale'] == main.read_experiment(config()).sample.scale
    assert protocol['ema_rate'] == 0.995 and protocol['seed'] == 0
    assert protocol['diffusion']['step'] == 6 and protocol['classifier']['step'] == 4


def config():
    return main.parse_flags(arguments('unused')).config


def test_complete_stages_are_passed_over(finished, capfd):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob('*') if path.is_file()}
    del before[finished / '.lock']
    assert run(finished, train__log_every=1, sample__grid_columns=3) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert capfd.readouterr().err.count('complete already') == 4


def test_another_scale_goes_to_a_folder_of_its_own(finished):
    original = (finished / 'samples' / 'samples.npz').read_bytes()
    change = {'sample__scale': 1.5, 'sample__eta': 1.0, 'sample__unguided': False}
    assert run(finished, 'sample,evaluate', **change) == 0
    other = finished / 'samples' / 'eta=1.0,scale=1.5'
    assert (other / 'grid.png').exists() and not (other / 'unguided').exists()
    assert json.loads((other / 'evaluation.json').read_text())['protocol']['scale'] == 1.5
    assert (finished / 'samples' / 'samples.npz').read_bytes() == original


def test_a_name_is_a_folder(finished):
    assert run(finished, 'sample', sample__name='mine', sample__seed=3, sample__scale=0) == 0
    assert (finished / 'samples' / 'mine' / 'samples.npz').exists()


def test_an_image_is_the_same_however_many_are_asked_for(finished):
    assert run(finished, 'sample', sample__num_samples=10, sample__unguided=False) == 0
    with (
        np.load(finished / 'samples' / 'num_samples=10' / 'samples.npz') as few,
        np.load(finished / 'samples' / 'samples.npz') as many,
    ):
        np.testing.assert_array_equal(few['arr_0'], many['arr_0'][:10])


def test_pretrained_networks_are_not_trained(finished, tmp_path):
    networks = {f'pretrained__{name}': finished / name for name in ('diffusion', 'classifier')}
    assert run(tmp_path, **networks) == 0
    assert not (tmp_path / 'diffusion').exists()
    with (
        np.load(finished / 'samples' / 'samples.npz') as own,
        np.load(tmp_path / 'samples' / 'samples.npz') as other,
    ):
        np.testing.assert_array_equal(own['arr_0'], other['arr_0'])


def test_a_pretrained_network_is_tuned_where_its_stage_is_named(finished, tmp_path):
    change = {'pretrained__classifier': finished / 'classifier', 'train_classifier__learning_rate': 1e-12}
    assert run(tmp_path, 'train_classifier', **change) == 0
    start = leaves(finished / 'classifier' / 'checkpoints' / '4')
    tuned = leaves(tmp_path / 'classifier' / 'checkpoints' / '4')
    for name, value in start.items():
        if name.startswith('params'):
            np.testing.assert_allclose(tuned[name], value, atol=1e-6)


@pytest.mark.slow
def test_training_is_extended(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'copy')
    assert run(tmp_path / 'copy', 'train_classifier,sample', train_classifier__num_steps=5) == 0
    assert (tmp_path / 'copy' / 'classifier' / 'checkpoints' / '5').is_dir()
    assert (tmp_path / 'copy' / 'samples' / 'classifier.step=5' / 'samples.npz').exists()


@pytest.mark.slow  # test_paper_configs.py goes most of this way in the fast tier
def test_a_folder_of_images(tmp_path):
    """A class-conditional DDPM of one's own pictures: two classes, RGB, not square."""
    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        for name in ('cats', 'dogs'):
            (tmp_path / 'images' / split / name).mkdir(parents=True)
            for i in range(10):
                pixels = rng.integers(0, 255, (18, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / 'images' / split / name / f'{i}.png')
    changes = {
        'data__name': 'folder',
        'data__path': tmp_path / 'images',
        'data__image_size': '(8,16)',
        'data__image_channels': 3,
        'data__num_classes': 2,
        'train__flip': True,
        'train_classifier__random_crop': True,
        'data__num_workers': 2,
        'unet__class_conditional': True,
        'classifier__pool': 'spatial',
        'train__timestep_sampler': 'loss_second_moment',
        'train__microbatches': 2,
        'train__clip_norm': 1.0,
        'train__keep_checkpoints': 1,
        'train_classifier__ema_rates': '(0.9,)',
        'sample__classifier_ema_rate': 0.9,
        'mesh__data': 4,
        'mesh__fsdp': 2,
        'sample__sampler': 'ddpm',
        'sample__labels': 'random',
        'evaluate__judge': '',
    }
    assert run(tmp_path / 'run', **changes) == 0
    with np.load(tmp_path / 'run' / 'samples' / 'samples.npz') as samples:
        assert samples['arr_0'].shape == (20, 8, 16, 3) and set(samples['arr_1']) == {0, 1}
    assert 'label_agreement' not in json.loads((tmp_path / 'run' / 'evaluation.json').read_text())
    assert [path.name for path in (tmp_path / 'run' / 'diffusion' / 'checkpoints').iterdir()] == ['6']
    (tmp_path / 'images' / 'train' / 'cats' / '3.png').write_bytes(b'no image')
    assert run(tmp_path / 'again', 'train', **changes) == 2


# The program, with a pause after every line of metrics, so that there is time to interrupt it.
SLOW_MAIN = """
import sys, time
from diffusion_jax import main
from diffusion_jax.training import loop
scalars = loop.MetricsWriter.scalars
loop.MetricsWriter.scalars = lambda *args: (scalars(*args), time.sleep(3))
sys.exit(main.main())
"""


def interrupt(workdir, number, after):
    """Trains, and sends the signal once `after` lines are logged; stderr and the exit code."""
    command = [sys.executable, '-c', SLOW_MAIN, *arguments(workdir, 'train')[1:]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    metrics, end = workdir / 'diffusion' / 'metrics.jsonl', time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < after:
        assert time.monotonic() < end and process.poll() is None, 'the training logged nothing'
        time.sleep(0.05)
    process.send_signal(number)
    return process.communicate(timeout=120)[1], process.returncode


def logged(directory):
    """The lines of the log, without what they say of time and memory."""
    lines = [json.loads(line) for line in (directory / 'metrics.jsonl').read_text().splitlines()]
    results = [{name: value for name, value in line.items() if '/' not in name} for line in lines]
    return [line for line in results if line.keys() != {'step'}]


def assert_same_end(workdir, finished):
    """The last checkpoint and the metrics are those of a run that was never interrupted."""
    ours, theirs = (leaves(each / 'diffusion' / 'checkpoints' / '6') for each in (workdir, finished))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    lines = [logged(each / 'diffusion') for each in (workdir, finished)]
    assert lines[0] == lines[1]


def test_a_stopped_run_goes_on_to_the_same_end(finished, tmp_path):
    err, code = interrupt(tmp_path, signal.SIGTERM, after=1)
    assert code == 130, err
    stopped = re.search(r'diffusion: stopped at step (\d) of 6, which is saved', err).group(1)
    assert (tmp_path / 'diffusion' / 'checkpoints' / stopped).is_dir()
    assert run(tmp_path, 'train') == 0
    assert_same_end(tmp_path, finished)


def test_a_run_that_is_stopped_in_an_evaluation_does_that_when_it_goes_on(
    finished, tmp_path, monkeypatch, capfd
):
    """After the last step, whose checkpoint is there: the stage is complete only when the evaluation is."""
    shutil.copytree(finished / 'diffusion', tmp_path / 'diffusion')
    shutil.rmtree(tmp_path / 'diffusion' / 'checkpoints' / '6')
    grid = tmp_path / 'diffusion' / 'grids' / 'step_00000006.png'
    grid.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(main, 'stop_requests', lambda: contextlib.nullcontext(grid.exists))
        assert run(tmp_path, 'train') == 130
    assert 'diffusion: stopped at step 6 of 6, which is saved' in capfd.readouterr().err
    assert (tmp_path / 'diffusion' / 'checkpoints' / '6').is_dir()
    evaluated = [line['step'] for line in logged(tmp_path / 'diffusion') if 'sample_recall' in line]
    assert evaluated == [3]
    drawn = grid.stat().st_mtime_ns
    assert run(tmp_path, 'train') == 0
    assert_same_end(tmp_path, finished)
    assert grid.stat().st_mtime_ns == drawn
    capfd.readouterr()
    assert run(tmp_path, 'train') == 0
    assert 'train: complete already' in capfd.readouterr().err


# Two runs, each killed shortly after a line of metrics. They are forked from one program: to import it takes
# longer than to train.
KILLED = """
import os, random, signal, sys, threading, time
from diffusion_jax import main
from diffusion_jax.training import loop
moments, scalars = random.Random(0), loop.MetricsWriter.scalars
def write(*args):
    scalars(*args)
    threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
    time.sleep(0.3)
loop.MetricsWriter.scalars = write
for _ in range(2):
    moment = moments.uniform(0, 0.4)
    child = os.fork()
    if not child:
        os._exit(main.main())
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def test_a_run_that_is_killed_twice_goes_on_to_the_same_end(finished, tmp_path):
    change = {'train__checkpoint_every': 1, 'train__sample_every': 0}
    command = [sys.executable, '-c', KILLED, *arguments(tmp_path, 'train', **change)[1:]]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert not (tmp_path / 'diffusion' / 'checkpoints' / '6').exists()
    assert run(tmp_path, 'train', **change) == 0
    assert_same_end(tmp_path, finished)


def test_a_damaged_last_checkpoint_is_made_anew_from_the_one_before(finished, tmp_path, capfd):
    shutil.copytree(finished / 'diffusion', tmp_path / 'diffusion')
    data = (tmp_path / 'diffusion' / 'checkpoints' / '6' / 'ema_0.995').rglob('*')
    largest = max((path for path in data if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert run(tmp_path, 'sample', sample__scale=0) == 2
    assert 'checkpoints/6: damaged (' in capfd.readouterr().err.splitlines()[-1]
    assert run(tmp_path, 'train', train__sample_every=0) == 0
    err = capfd.readouterr().err
    assert 'moved to damaged/6, training goes on from step 3' in err
    assert (tmp_path / 'diffusion' / 'checkpoints' / 'damaged' / '6').is_dir()
    assert_same_end(tmp_path, finished)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_end(finished, tmp_path):
    for lines in (1, 2, 2, 3):
        _, code = interrupt(tmp_path, signal.SIGKILL, after=lines)
        assert code == -signal.SIGKILL
    assert run(tmp_path, 'train') == 0
    assert_same_end(tmp_path, finished)


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (['--config.nope=1'], '--config.nope=1: no such setting'),
        (['--config.train.nope=1'], '--config.train.nope=1: no such setting'),
        (['--config.train.num_steps=many'], "invalid literal for int() with base 10: 'many'"),
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
        (['--config.seed=-1'], 'config.seed is -1'),
        (['--config.sample.seed=4294967296'], 'config.sample.seed is 4294967296'),
        (['stray'], 'stray: arguments that mean nothing here'),
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


def test_other_settings_in_one_folder_are_refused(finished, capfd):
    assert run(finished, 'train', train__num_steps=7, train__learning_rate=0.5) == 2
    assert 'train.learning_rate: had 0.001, now 0.5' in capfd.readouterr().err


def test_a_foreign_checkpoint_is_refused(finished, tmp_path, capfd):
    change = {'pretrained__diffusion': finished / 'diffusion', 'unet__model_channels': 64, 'sample__scale': 0}
    assert run(tmp_path, 'sample', **change) == 2
    assert 'another network: model_channels is 32 there and 64 in the config' in capfd.readouterr().err


def test_a_mistaken_path_can_be_corrected(finished, tmp_path):
    assert run(tmp_path, 'train_classifier', pretrained__classifier='/nowhere') == 2
    assert run(tmp_path, 'train_classifier', pretrained__classifier=finished / 'classifier') == 0


@pytest.mark.slow
def test_a_network_that_was_trained_otherwise_makes_other_samples(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'copy')
    shutil.rmtree(tmp_path / 'copy' / 'classifier')
    change = {'train_classifier__learning_rate': 0.1, 'sample__unguided': False}
    assert run(tmp_path / 'copy', 'train_classifier,sample', **change) == 0
    (other,) = (tmp_path / 'copy' / 'samples').glob('classifier.settings=*')
    assert (other / 'samples.npz').exists()


def test_a_classifier_serves_every_parameterization(finished, capfd):
    assert run(finished, 'train_classifier', diffusion__prediction='eps') == 0
    assert 'complete already' in capfd.readouterr().err


def test_a_stopped_sampling_goes_on_to_the_same_end(finished, tmp_path, monkeypatch):
    networks = {f'pretrained__{name}': finished / name for name in ('diffusion', 'classifier')}
    change = networks | {'sample__batch_size': 8, 'sample__unguided': False}
    answers = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(main, 'stop_requests', lambda: contextlib.nullcontext(lambda: next(answers, True)))
        assert run(tmp_path / 'stopped', 'sample', **change) == 130
    assert len(list((tmp_path / 'stopped' / 'samples' / 'shards').iterdir())) == 2
    assert run(tmp_path / 'stopped', 'sample', **change) == 0
    assert run(tmp_path / 'whole', 'sample', **change) == 0
    one, two = (tmp_path / name / 'samples' / 'samples.npz' for name in ('stopped', 'whole'))
    with np.load(one) as stopped, np.load(two) as whole:
        np.testing.assert_array_equal(stopped['arr_0'], whole['arr_0'])


def test_a_second_run_in_one_folder_is_refused(tmp_path, capfd):
    with lock(tmp_path):
        assert run(tmp_path) == 2
    assert f'in use by process {os.getpid()}' in capfd.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / 'file').write_text('')
    assert run(tmp_path / 'file' / 'workdir') == 2
    assert 'cannot be written' in capfd.readouterr().err


def test_settings_of_what_is_complete_may_not_change(finished, capfd):
    assert run(finished, train__learning_rate=0.5) == 2
    assert 'train.learning_rate: had 0.001, now 0.5' in capfd.readouterr().err


def test_a_name_keeps_what_it_holds(finished, capfd):
    change = {'sample__name': 'kept', 'sample__num_samples': 7, 'sample__scale': 0}
    assert run(finished, 'sample', **change) == 0
    assert run(finished, 'sample,evaluate', **change | {'sample__scale': 1.0}) == 2
    assert 'sample.scale: had 0.0, now 1.0' in capfd.readouterr().err


def test_damaged_files_are_named(finished, tmp_path, capfd):
    shard = 'samples/shards/00000000-00000016.npz'
    for name in (shard, 'samples/stamp.json', 'diffusion/metrics.jsonl'):
        copy = tmp_path / name.replace('/', '_')
        shutil.copytree(finished, copy)
        (copy / 'evaluation.json').unlink()
        (copy / name).write_bytes(b'junk\n')
        assert run(copy, **({'train__num_steps': 7} if name.startswith('diffusion') else {})) == 2
        assert name in capfd.readouterr().err.splitlines()[-1]


def test_help(capfd):
    assert main.main(['main', '--help']) == 0
    assert '--workdir=FOLDER' in capfd.readouterr().out


def test_a_misspelt_setting_is_guessed(tmp_path, capfd):
    assert main.main([*arguments(tmp_path), '--config.train.num_step=3']) == 2
    assert 'num_step=3: no such setting in the config; did you mean num_steps?' in capfd.readouterr().err


def test_a_result_below_what_is_required_is_a_failure(finished, capfd):
    change = {'sample__scale': 1.5, 'sample__eta': 1.0, 'sample__unguided': False}
    assert run(finished, 'sample,evaluate', **change, evaluate__required_agreement=1.1) == 0
    capfd.readouterr()
    assert run(finished, 'evaluate', evaluate__required_agreement=1.1) == 1
    assert 'check failed' in capfd.readouterr().err


def test_the_console_command(capfd):
    command = [sys.executable, '-c', 'from diffusion_jax.commands.cli import main; raise SystemExit(main())']
    assert subprocess.run([*command, 'run'], cwd=ROOT).returncode == 2
    assert 'give --config=<file>' in capfd.readouterr().err
    assert subprocess.run([*command, 'dance'], cwd=ROOT).returncode == 2
    assert 'usage: diffusion-jax' in capfd.readouterr().err
