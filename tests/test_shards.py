"""Work in shards: an existing shard is not computed again, whatever host and batch size made it."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress
from diffusion_jax.shards import Shard, fill, gaps, list_shards, read, shard
from tests.errors import refused


def number(start, stop):
    return {'row': np.arange(start, stop)}


def run(directory, num_rows=10, batch_size=4, compute=number, stop=lambda: False, **hosts):
    fill(directory, Progress('test', num_rows), num_rows, batch_size, compute, stop, **hosts)
    return np.concatenate([read(part, 'row')['row'] for part in list_shards(directory)])


def test_every_row_is_done_once(tmp_path):
    np.testing.assert_array_equal(run(tmp_path), np.arange(10))
    names = ['00000000-00000004.npz', '00000004-00000008.npz', '00000008-00000010.npz']
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize('done', [0, 1, 2])
def test_a_stopped_run_resumes(tmp_path, done):
    answers = iter([False] * done + [True])
    with pytest.raises(Interrupted, match=rf'stopped after {4 * done} of 10 images'):
        run(tmp_path, stop=lambda: next(answers))
    computed = []

    def watched(start, stop):
        computed.extend(range(start, stop))
        return number(start, stop)

    np.testing.assert_array_equal(run(tmp_path, compute=watched), np.arange(10))
    assert computed == list(range(4 * done, 10))


def test_a_partial_file_of_a_killed_run_is_not_used(tmp_path):
    (tmp_path / '.00000000-00000004.npz.123.tmp').write_bytes(b'half')
    np.testing.assert_array_equal(run(tmp_path), np.arange(10))


@given(st.data())
def test_gaps_and_shards_together_are_all_rows(data):
    """Whatever is there, of whatever batch sizes."""
    num_rows = data.draw(st.integers(1, 60))
    cuts = sorted(data.draw(st.sets(st.integers(0, num_rows), max_size=8)) | {0, num_rows})
    pieces = list(itertools.pairwise(cuts))
    kept = [piece for piece in pieces if data.draw(st.booleans())]
    batch_size = data.draw(st.integers(1, 20))

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        for start, stop in kept:
            shard(directory, start, stop).path.touch()
        missing = gaps(directory, num_rows, batch_size)
    covered = [row for start, stop in kept for row in range(start, stop)]
    covered += [row for _, start, stop in missing for row in range(start, stop)]
    assert sorted(covered) == list(range(num_rows))
    assert all(0 < stop - start <= batch_size for _, start, stop in missing)


@pytest.mark.parametrize('num_hosts', [2, 3])
def test_hosts_share_the_work_at_any_time_of_their_calls(tmp_path, num_hosts):
    computed = []

    def watched(start, stop):
        computed.extend(range(start, stop))
        return number(start, stop)

    for host in reversed(range(num_hosts)):  # the last one is done before the first has looked
        run(tmp_path, 30, compute=watched, host=host, num_hosts=num_hosts)
    assert sorted(computed) == list(range(30))
    np.testing.assert_array_equal(run(tmp_path, 30, compute=None), np.arange(30))


def test_a_damaged_shard_is_named(tmp_path):
    run(tmp_path)
    first = list_shards(tmp_path)[0]
    assert isinstance(first, Shard)
    first.path.write_bytes(first.path.read_bytes()[:100])
    with refused('00000000-00000004.npz', 'remove it'):
        read(first, 'row')


def test_the_progress_of_a_resumed_run_starts_with_the_existing_rows(tmp_path, capfd):
    answers = iter([False, True])
    with pytest.raises(Interrupted):
        run(tmp_path, stop=lambda: next(answers))
    capfd.readouterr()
    run(tmp_path)
    printed = capfd.readouterr().err
    assert 'test  40%  4/10' in printed and 'test 100%  10/10' in printed
