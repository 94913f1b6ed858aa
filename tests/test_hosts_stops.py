"""One of two hosts is stopped, or meets an error that nobody expects, while they draw or evaluate."""

import json
import re
import shutil
import signal

import numpy as np
import pytest

from diffusion_jax.data.image_sets.archive import open_samples
from tests.hosts import TRAININGS, ends, run_hosts, send, start_hosts, untrained
from tests.program import arguments, assert_same_end

pytestmark = pytest.mark.slow

# Five batches are drawn for an evaluation, after a grid.
WATCHED = TRAININGS | {
    'train__num_steps': 8,
    'train__sample_every': 4,
    'train__evaluate_every': 4,
    'train__evaluate_samples': 40,
    'sample__batch_size': 8,
}
# The program, in which a grid or a batch of an evaluation takes time to draw; a file says when that begins.
SLOW_DRAWING = """
import sys, time
from pathlib import Path
from diffusion_jax import main
from diffusion_jax.stages import train
hook, begun = sys.argv.pop().split()
draw, drawn = train.draw_while_training, []
def draw_slowly(*args):
    drawn.append(args)
    if '--host=1' in sys.argv and len(drawn) == {'grid': 1, 'evaluation': 2}[hook]:
        Path(begun).touch()
    time.sleep(1)
    return draw(*args)
train.draw_while_training = draw_slowly
sys.exit(main.main())
"""


@pytest.fixture(scope='module')
def watched(tmp_path_factory):
    """A training with grids and evaluations that nobody disturbed."""
    workdir = tmp_path_factory.mktemp('watched')
    run_hosts(workdir, 'train', **WATCHED)
    return workdir


def hooks_called(workdir):
    lines = (workdir / 'diffusion' / 'metrics.jsonl').read_text().splitlines()
    hooks = ('time/grid_s', 'time/evaluation_s')
    return [(line['step'], name) for line in map(json.loads, lines) for name in hooks if name in line]


@pytest.mark.parametrize('hook', ['grid', 'evaluation'])
def test_a_stop_of_one_host_ends_what_all_draw_while_they_train(hook, watched, tmp_path):
    begun = tmp_path / 'begun'
    argv = arguments(tmp_path, 'train', **WATCHED)
    hosts = start_hosts(argv, f'{hook} {begun}', program=('-c', SLOW_DRAWING))
    codes, printed = send(signal.SIGTERM, 1, hosts, begun.exists)
    assert codes == [130, 130], '\n'.join(printed)
    assert all('diffusion: stopped at step 4 of 8, which is saved' in text for text in printed), printed
    assert (tmp_path / 'diffusion' / 'checkpoints' / '4').is_dir() and hooks_called(tmp_path) == []
    run_hosts(tmp_path, 'train', **WATCHED)
    assert_same_end(tmp_path, watched, step=8)
    assert hooks_called(tmp_path) == hooks_called(watched)


# The program, with a pause before every shard, so that there is time to interrupt it.
SLOW_SHARDS = """
import sys, time
from diffusion_jax import main, shards
write = shards.write_npz
shards.write_npz = lambda *args, **arrays: (time.sleep(1), write(*args, **arrays))
sys.exit(main.main())
"""


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Settings, and the samples and numbers of two hosts that nobody disturbed."""
    workdir = tmp_path_factory.mktemp('drawn')
    change = untrained(workdir / 'diffusion.safetensors') | {'sample__num_samples': 60}
    run_hosts(workdir, 'sample,evaluate', **change)
    return workdir, change


@pytest.mark.parametrize(
    ('stage', 'folder'), [('sample', 'samples/shards'), ('evaluate', 'samples/features/pixels')]
)
def test_a_stop_of_one_host_ends_what_all_draw_or_evaluate(stage, folder, drawn, tmp_path):
    finished, change = drawn
    if stage == 'evaluate':
        shutil.copytree(finished / 'samples', tmp_path / 'samples', ignore=shutil.ignore_patterns('features'))
    hosts = start_hosts(arguments(tmp_path, stage, **change), program=('-c', SLOW_SHARDS))

    def shards():
        return len(list((tmp_path / folder).glob('*.npz')))

    codes, printed = send(signal.SIGTERM, 1, hosts, lambda: shards() >= 2)
    assert codes == [130, 130], '\n'.join(printed)
    assert 2 <= shards() <= 4  # of 8: at most one more of each host
    assert all(re.search(r'stopped after \d+ of 60 images', text) for text in printed), printed
    run_hosts(tmp_path, 'sample,evaluate', **change)
    ours, theirs = (open_samples(each / 'samples').take(np.arange(60)) for each in (tmp_path, finished))
    np.testing.assert_array_equal(ours, theirs)
    results = [(each / 'evaluation.json').read_text() for each in (tmp_path, finished)]
    assert results[0].replace(str(tmp_path), str(finished)) == results[1]


# The program, in which the second shard of one host meets an error that nobody expects.
MISTAKEN = """
import itertools, sys
from diffusion_jax import main, shards
written, write = itertools.count(), shards.write_npz
def write_once(*args, **arrays):
    if '--host=1' in sys.argv and next(written):
        raise ValueError('a mistake')
    write(*args, **arrays)
shards.write_npz = write_once
sys.exit(main.main())
"""


def test_an_error_of_one_host_that_nobody_expects_ends_all(drawn, tmp_path):
    finished, change = drawn
    codes, printed = ends(start_hosts(arguments(tmp_path, 'sample', **change), program=('-c', MISTAKEN)))
    assert codes == [2, 1], '\n'.join(printed)
    assert 'error: another host: failed' in printed[0] and 'ValueError: a mistake' in printed[1]
    run_hosts(tmp_path, 'sample', **change)
    ours, theirs = (open_samples(each / 'samples').take(np.arange(60)) for each in (tmp_path, finished))
    np.testing.assert_array_equal(ours, theirs)
