"""Several hosts, as processes on this machine with two CPU devices each, started by the flags of users."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion_jax import main, models
from diffusion_jax.data.stored.samples import open_samples
from diffusion_jax.errors import UserError
from diffusion_jax.report import MetricsWriter, Progress
from diffusion_jax.sharding import fetch, make_mesh, put_whole
from diffusion_jax.weights.files import Weights, save_weights
from diffusion_jax.workdir import lock
from tests.test_main import ROOT, SLOW_MAIN, arguments, run

TRAININGS = {'train__num_steps': 20, 'train__log_every': 1, 'train__sample_every': 20}
STOPPED = re.compile(r'diffusion: stopped at step (\d+) of 20, which is saved')


def free_address():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return f'127.0.0.1:{free.getsockname()[1]}'


def start(program, argv, flags, devices=2, environment=None):
    """A process of its own, with so many devices."""
    return subprocess.Popen(
        [sys.executable, *program, *argv[1:], *flags],
        env=os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def start_hosts(argv, *flags, program=('-m', 'diffusion_jax.main')):
    """Two hosts."""
    hosts = (f'--coordinator={free_address()}', '--num_hosts=2')
    return [start(program, argv, [*hosts, f'--host={host}', *flags]) for host in range(2)]


def ends(processes):
    """The exit codes and what was printed."""
    printed = [process.communicate(timeout=600)[0] for process in processes]
    return [process.returncode for process in processes], printed


def metrics(workdir, network):
    """The lines of metrics.jsonl, without what is measured in seconds or bytes."""
    lines = [json.loads(line) for line in (workdir / network / 'metrics.jsonl').read_text().splitlines()]
    return [{name: value for name, value in line.items() if name in LOGGED} for line in lines]


LOGGED = ('step', 'loss', 'grad_norm', 'param_norm', 'validation_loss', 'validation_accuracy')


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--coordinator=here', '--num_hosts=2', '--host=0'], "--coordinator is 'here'; give HOST:PORT"),
        (['--coordinator=here:1', '--num_hosts=2'], 'needs --num_hosts=N and --host=I'),
        (['--coordinator=here:1', '--num_hosts=2', '--host=2'], 'given are 2 and 2'),
        (['--coordinator=here:1', '--num_hosts=2', '--host=-1'], '--host=-1'),
        (['--coordinator=', '--num_hosts=2', '--host=0'], 'need --coordinator'),
    ],
)
def test_flags_that_name_no_host_are_refused(flags, message):
    with pytest.raises(UserError, match=re.escape(message)):
        main.parse_flags([*arguments('unused'), *flags])


def test_a_run_of_one_process_has_no_hosts():
    assert main.parse_flags(arguments('unused')).hosts is None


def test_where_the_others_do_not_come_the_last_line_says_so(tmp_path):
    flags = ('--num_hosts=2', '--initialization_timeout=2')
    program = ('-m', 'diffusion_jax.main')
    alone = [
        start(program, arguments(tmp_path), [*flags, f'--coordinator={free_address()}', f'--host={host}'])
        for host in range(2)
    ]
    codes, printed = ends(alone)
    assert codes == [1, 1]
    for host, text in enumerate(printed):
        last = text.splitlines()[-1]
        assert last.startswith('error: not all hosts came within 2 s'), text
        assert f'this is host {host} of 2, ' in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # 57 s of CPU time, cold: two processes compile the same
def test_hosts_train_together(tmp_path):
    argv = arguments(tmp_path, 'train_classifier', train_classifier__num_steps=2)
    codes, printed = ends(start_hosts(argv))
    assert codes == [0, 0], '\n'.join(printed)
    assert [line['step'] for line in metrics(tmp_path, 'classifier') if 'loss' in line] == [2]
    assert any('validation_accuracy' in line for line in metrics(tmp_path, 'classifier'))
    assert (tmp_path / 'classifier' / 'checkpoints' / '2').is_dir()
    assert len(list((tmp_path / 'classifier').glob('events.out.tfevents.*'))) == 1
    # What both have to say is said once.
    assert ['data: 1,500 training images' in text for text in printed] == [True, False]
    assert ['classifier 100%' in text for text in printed] == [True, False]


def test_what_other_hosts_report_goes_nowhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    with Progress('training', 2) as progress, MetricsWriter(tmp_path / 'logs') as writer:
        progress.update(2, loss=0.5)
        writer.scalars(2, {'loss': 0.5})
        writer.image(2, 'samples', np.zeros((4, 4, 1), np.uint8))
    assert capfd.readouterr() == ('', '') and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('rows', [16, 10])
def test_a_whole_batch_comes_back_whole(rows):
    batch = {'image': np.arange(rows * 3).reshape(rows, 3), 'label': np.arange(rows)}
    placed = put_whole(make_mesh(), batch)
    parts = 8 if rows == 16 else 1
    assert {shard.data.shape[0] for shard in placed['image'].addressable_shards} == {rows // parts}
    for name, array in placed.items():
        np.testing.assert_array_equal(fetch(array), batch[name])


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    """All stages on two hosts, by two devices each."""
    workdir = tmp_path_factory.mktemp('together')
    codes, printed = ends(start_hosts(arguments(workdir, **TRAININGS)))
    assert codes == [0, 0], '\n'.join(printed)
    return workdir


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """The same in one process with four devices."""
    workdir = tmp_path_factory.mktemp('alone')
    process = start(('-m', 'diffusion_jax.main'), arguments(workdir, **TRAININGS), [], devices=4)
    codes, printed = ends([process])
    assert codes == [0], printed
    return workdir


def leaves(workdir):
    """Every array of the last checkpoint of the diffusion model, by its path."""
    arrays = {}
    for item in ('params', 'ema_0.995', 'training'):
        path = workdir / 'diffusion' / 'checkpoints' / '20' / item
        tree = ocp.StandardCheckpointer().metadata(path).item_metadata.tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        tree = ocp.PyTreeCheckpointer().restore(path, args=ocp.args.PyTreeRestore(restore_args=args))
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        arrays |= {item + jax.tree_util.keystr(key): leaf for key, leaf in flat}
    return arrays


def assert_agree(one, other):
    """Losses and norms over 20 steps, then averages of gradients, and parameters, as shares of their norms.

    Parameters are farther apart: biases before a normalization have no gradient but rounding, which Adam
    enlarges to whole steps.
    """
    for ours, theirs in zip(metrics(one, 'diffusion'), metrics(other, 'diffusion'), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = leaves(one), leaves(other)
    assert ours.keys() == theirs.keys()
    for part, tolerance in (("['mu']", 1e-5), ("['nu']", 1e-5), ('params', 1e-4), ('ema', 1e-4)):
        names = [name for name in theirs if part in name]
        ours_flat, theirs_flat = (
            np.concatenate([leaf[name].ravel() for name in names]) for leaf in (ours, theirs)
        )
        distance = np.linalg.norm(ours_flat - theirs_flat) / np.linalg.norm(theirs_flat)
        assert distance < tolerance, part


@pytest.mark.slow
def test_two_hosts_train_as_one_process_does(together, alone):
    assert_agree(together, alone)
    for ours, theirs in zip(metrics(together, 'classifier'), metrics(alone, 'classifier'), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_two_hosts_leave_what_one_process_leaves(together, alone):
    files = [
        {
            str(path.relative_to(workdir))
            for path in workdir.rglob('*')
            if 'checkpoints' not in path.parts
            and 'tfevents' not in path.name
            and 'features' not in path.parts
        }
        for workdir in (together, alone)
    ]
    assert files[0] == files[1]
    results = [json.loads((workdir / 'evaluation.json').read_text()) for workdir in (together, alone)]
    assert results[0]['num_samples'] == results[1]['num_samples'] == 20
    assert results[0]['frechet_distance'] == pytest.approx(results[1]['frechet_distance'], rel=1e-2)
    samples = [
        open_samples(workdir / 'samples').take(np.arange(20)).astype(int) for workdir in (together, alone)
    ]
    assert np.abs(samples[0] - samples[1]).max() <= 1


@pytest.mark.slow
def test_parameters_are_split_over_hosts(alone, tmp_path):
    change = TRAININGS | {'mesh__data': 1, 'mesh__fsdp': 4}
    codes, printed = ends(start_hosts(arguments(tmp_path, 'train,sample', sample__scale=0, **change)))
    assert codes == [0, 0], '\n'.join(printed)
    assert_agree(tmp_path, alone)


def interrupt(workdir, number, host, *flags, after=3):
    """Sends a signal to one of two hosts once `after` lines are logged; exit codes and what was printed."""
    hosts = start_hosts(arguments(workdir, 'train', **TRAININGS), *flags, program=('-c', SLOW_MAIN))
    log, end = workdir / 'diffusion' / 'metrics.jsonl', time.monotonic() + 300
    while not log.exists() or len(log.read_text().splitlines()) < after:
        assert time.monotonic() < end, 'the training logged nothing'
        if any(process.poll() is not None for process in hosts):
            pytest.fail('\n'.join(ends(hosts)[1]))
        time.sleep(0.05)
    hosts[host].send_signal(number)
    return ends(hosts)


def assert_goes_on_to_the_same_end(workdir, finished):
    codes, printed = ends(start_hosts(arguments(workdir, 'train', **TRAININGS)))
    assert codes == [0, 0], '\n'.join(printed)
    ours, theirs = leaves(workdir), leaves(finished)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert metrics(workdir, 'diffusion') == metrics(finished, 'diffusion')


@pytest.mark.slow
def test_what_one_host_refuses_all_do(tmp_path):
    with lock(tmp_path):
        codes, printed = ends(start_hosts(arguments(tmp_path, 'train')))
    assert codes == [2, 2], '\n'.join(printed)
    assert 'in use by process' in printed[0] and 'another host cannot go on' in printed[1]


@pytest.mark.slow
def test_what_one_host_is_asked_all_do(together, tmp_path):
    codes, printed = interrupt(tmp_path, signal.SIGTERM, 1)
    assert codes == [130, 130], '\n'.join(printed)
    steps = {STOPPED.search(text).group(1) for text in printed}
    assert len(steps) == 1 and (tmp_path / 'diffusion' / 'checkpoints' / steps.pop()).is_dir()
    assert_goes_on_to_the_same_end(tmp_path, together)


@pytest.mark.slow
@pytest.mark.parametrize('host', [0, 1])
def test_the_death_of_a_host_ends_the_other(host, together, tmp_path):
    codes, printed = interrupt(tmp_path, signal.SIGKILL, host, '--heartbeat_timeout=10', after=6)
    assert codes[host] == -signal.SIGKILL
    # Either a computation fails, or JAX ends the process by its own text, which no Python code can follow.
    assert codes[1 - host] in (1, -signal.SIGABRT), printed
    said = {
        1: 'if one of them died, give the same command on all of them',
        -signal.SIGABRT: 'another task died',
    }
    assert said[codes[1 - host]] in printed[1 - host]
    assert_goes_on_to_the_same_end(tmp_path, together)


@pytest.mark.slow
def test_a_cluster_is_detected(tmp_path):
    """What SLURM tells its tasks."""
    argv = arguments(tmp_path, 'train', train__num_steps=1)
    port = int(free_address().rpartition(':')[2])
    slurm = {
        'SLURM_JOB_ID': '1',
        'SLURM_STEP_NODELIST': '127.0.0.1',
        'SLURM_NTASKS': '2',
        'JAX_COORDINATOR_PORT': str(port),
    }
    own = [slurm | {'SLURM_PROCID': str(host), 'SLURM_LOCALID': str(host)} for host in range(2)]
    program = ('-m', 'diffusion_jax.main')
    codes, printed = ends([start(program, argv, ['--distributed'], environment=each) for each in own])
    assert codes == [0, 0], '\n'.join(printed)
    assert '4 cpu device(s)' in printed[0]


def untrained(path):
    """Settings that sample without guidance from a diffusion model with random parameters."""
    experiment = main.read_experiment(main.parse_flags(arguments('unused')).config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32),
        models.param_shapes(experiment.unet),
    )
    save_weights(path, Weights(experiment.unet, params, experiment.diffusion))
    return {'pretrained__diffusion': path, 'sample__scale': 0, 'sample__batch_size': 8, 'evaluate__judge': ''}


@pytest.mark.slow
def test_hosts_draw_and_evaluate_together_what_one_draws_alone(tmp_path):
    change = untrained(tmp_path / 'diffusion.safetensors') | {'sample__num_samples': 44}
    codes, printed = ends(start_hosts(arguments(tmp_path / 'hosts', 'sample,evaluate', **change)))
    assert codes == [0, 0], '\n'.join(printed)
    assert run(tmp_path / 'alone', 'sample,evaluate', **change) == 0

    together, alone = (open_samples(tmp_path / name / 'samples') for name in ('hosts', 'alone'))
    assert [part[:2] for part in together.parts] == [part[:2] for part in alone.parts]
    difference = together.take(np.arange(44)).astype(int) - alone.take(np.arange(44))
    assert np.abs(difference).max() <= 1
    results = [json.loads((tmp_path / name / 'evaluation.json').read_text()) for name in ('hosts', 'alone')]
    assert results[0]['num_samples'] == 44
    assert results[0]['frechet_distance'] == pytest.approx(results[1]['frechet_distance'], rel=1e-2)
