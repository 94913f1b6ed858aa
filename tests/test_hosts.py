"""Several hosts, as processes on this machine with two CPU devices each, started by the flags of users."""

import json

import jax
import numpy as np
import pytest

from diffusion_jax import hosts
from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import MetricsWriter, Progress
from diffusion_jax.sharding import make_mesh, put_global, to_host
from diffusion_jax.training.saving import Checkpoints
from tests.hosts import (
    SPLIT,
    TRAININGS,
    ends,
    free_address,
    metrics,
    run_alone,
    run_hosts,
    start,
    start_hosts,
    untrained,
)
from tests.program import arguments, leaves, run
from tests.training.states import abstract, small_state


def test_where_the_others_do_not_come_the_last_line_says_so(tmp_path):
    flags = ('--num_hosts=2', '--initialization_timeout=2')
    alone = [
        start(arguments(tmp_path), [*flags, f'--coordinator={free_address()}', f'--host={host}'])
        for host in range(2)
    ]
    codes, printed = ends(alone)
    assert codes == [1, 1]
    for host, text in enumerate(printed):
        last = text.splitlines()[-1]
        assert last.startswith('error: not all hosts connected within 2 s'), text
        assert f'this is host {host} of 2, ' in last
    assert list(tmp_path.iterdir()) == []


def test_two_hosts_agree_and_save_and_restore_their_parts_of_a_state(tmp_path):
    address = free_address()
    pair = [
        start(['', address, str(host), str(tmp_path)], [], program=('-m', 'tests.toy_host'))
        for host in range(2)
    ]
    codes, printed = ends(pair)
    assert codes == [0, 0], '\n'.join(printed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['2', '3']
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(abstract())
    expected = jax.jit(small_state.__wrapped__)()
    np.testing.assert_allclose(restored.params['kernel'], expected.params['kernel'], rtol=1e-6)
    np.testing.assert_allclose(restored.ema['0.99']['bias'], expected.ema['0.99']['bias'], rtol=1e-6)


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


@pytest.mark.parametrize('error', [UserError('a', 'bad', 'flag'), ValueError('a'), Interrupted('stopped')])
def test_an_error_of_one_host_stops_all(error, monkeypatch):
    """On the host itself, and on one that is told of it."""
    with pytest.raises(type(error)) as raised, hosts.raise_together():
        raise error
    assert raised.value is error
    told = []
    monkeypatch.setattr(hosts, 'any_process', lambda yes: told.append(yes) or True)
    with pytest.raises(UserError, match='another host'), hosts.raise_together():
        pass
    with pytest.raises(type(error)) as raised, hosts.raise_together():
        raise error
    assert raised.value is error and told == [False, True]


def test_one_host_agrees_with_itself():
    assert hosts.any_process(True) and not hosts.any_process(False)
    assert hosts.largest_of_hosts(3) == 3
    hosts.check_same('checkpoints', [1, 2])
    answers = iter([False, True])
    ask = hosts.synced_flag(lambda: next(answers))
    assert [ask(), ask()] == [False, True]


def test_what_other_hosts_report_goes_nowhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    with Progress('training', 2) as progress, MetricsWriter(tmp_path / 'logs') as writer:
        progress.update(2, {'loss': 0.5})
        writer.scalars(2, {'loss': 0.5})
        writer.image(2, 'samples', np.zeros((4, 4, 1), np.uint8))
    assert capfd.readouterr() == ('', '') and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('rows', [16, 10, 4])
def test_a_whole_batch_comes_back_whole(rows):
    batch = {'image': np.arange(rows * 3).reshape(rows, 3), 'label': np.arange(rows)}
    placed = put_global(make_mesh(fsdp=2), batch)
    parts = 8 if rows == 16 else 1
    assert {shard.data.shape[0] for shard in placed['image'].addressable_shards} == {rows // parts}
    for name, array in placed.items():
        np.testing.assert_array_equal(to_host(array), batch[name])


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    """All stages on two hosts, by two devices each."""
    workdir = tmp_path_factory.mktemp('together')
    run_hosts(workdir, '', **TRAININGS)
    return workdir


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """The same in one process with four devices."""
    workdir = tmp_path_factory.mktemp('alone')
    run_alone(workdir, '', 4, **TRAININGS)
    return workdir


def assert_agree(one, other):
    """Losses and norms over 20 steps, then averages of gradients, and parameters, as shares of their norms.

    Parameters are farther apart: biases before a normalization have no gradient but rounding, which Adam
    enlarges to whole steps.
    """
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = (leaves(each / 'diffusion' / 'checkpoints' / '20') for each in (one, other))
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
    run_hosts(tmp_path, 'train,sample', sample__scale=0, **SPLIT)
    assert_agree(tmp_path, alone)


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
    codes, printed = ends([start(argv, ['--distributed'], environment=each) for each in own])
    assert codes == [0, 0], '\n'.join(printed)
    assert '4 cpu device(s)' in printed[0]


@pytest.mark.slow
def test_hosts_draw_and_evaluate_together_what_one_draws_alone(tmp_path):
    change = untrained(tmp_path / 'diffusion.safetensors') | {'sample__num_samples': 44}
    run_hosts(tmp_path / 'hosts', 'sample,evaluate', **change)
    assert run(tmp_path / 'alone', 'sample,evaluate', **change) == 0

    together, alone = (open_samples(tmp_path / name / 'samples') for name in ('hosts', 'alone'))
    assert [part[:2] for part in together.parts] == [part[:2] for part in alone.parts]
    difference = together.take(np.arange(44)).astype(int) - alone.take(np.arange(44))
    assert np.abs(difference).max() <= 1
    results = [json.loads((tmp_path / name / 'evaluation.json').read_text()) for name in ('hosts', 'alone')]
    assert results[0]['num_samples'] == 44
    assert results[0]['frechet_distance'] == pytest.approx(results[1]['frechet_distance'], rel=1e-2)
