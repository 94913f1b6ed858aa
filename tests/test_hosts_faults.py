"""What befalls one of two hosts: it is stopped, dies, cannot write, cannot read."""

import os
import re
import shutil
import signal

import pytest

from diffusion_jax.workdir import lock
from tests.hosts import SPLIT, TRAININGS, ends, metrics, run_alone, run_hosts, send, start_hosts
from tests.program import SLOW_MAIN, arguments, assert_same_end

pytestmark = pytest.mark.slow

STOPPED = re.compile(r'diffusion: stopped at step (\d+) of 20, which is saved')


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('together')
    run_hosts(workdir, 'train', **TRAININGS)
    return workdir


@pytest.fixture(scope='module')
def split(tmp_path_factory):
    """The same with parameters split over both hosts."""
    workdir = tmp_path_factory.mktemp('split')
    run_hosts(workdir, 'train', **SPLIT)
    return workdir


def interrupt(workdir, number, host, *flags, after=3):
    """Sends a signal to one of two hosts that train once `after` lines are logged."""
    hosts = start_hosts(arguments(workdir, 'train', **TRAININGS), *flags, program=('-c', SLOW_MAIN))
    log = workdir / 'diffusion' / 'metrics.jsonl'
    return send(number, host, hosts, lambda: log.exists() and len(log.read_text().splitlines()) >= after)


def test_what_one_host_refuses_all_do(tmp_path):
    with lock(tmp_path):
        codes, printed = ends(start_hosts(arguments(tmp_path, 'train')))
    assert codes == [2, 2], '\n'.join(printed)
    assert 'in use by process' in printed[0] and 'error: another host: failed' in printed[1]


def test_what_one_host_is_asked_all_do(together, tmp_path):
    codes, printed = interrupt(tmp_path, signal.SIGTERM, 1)
    assert codes == [130, 130], '\n'.join(printed)
    steps = {STOPPED.search(text).group(1) for text in printed}
    assert len(steps) == 1 and (tmp_path / 'diffusion' / 'checkpoints' / steps.pop()).is_dir()
    run_hosts(tmp_path, 'train', **TRAININGS)
    assert_same_end(tmp_path, together, step=20)


@pytest.mark.parametrize('host', [0, 1])
def test_the_death_of_a_host_ends_the_other(host, together, tmp_path):
    codes, printed = interrupt(tmp_path, signal.SIGKILL, host, '--heartbeat_timeout=10', after=6)
    assert codes[host] == -signal.SIGKILL
    # Either a computation fails, or JAX ends the process by its own text, which no Python code can follow.
    assert codes[1 - host] in (1, -signal.SIGABRT), printed
    said = {
        1: 'a computation of all hosts failed',
        -signal.SIGABRT: 'another task died',
    }
    assert said[codes[1 - host]] in printed[1 - host]
    run_hosts(tmp_path, 'train', **TRAININGS)
    assert_same_end(tmp_path, together, step=20)


# The program, which from step 6 to step 11 cannot write files of more than 2,000 bytes (except the log) or
# create folders. The other host waits 20 seconds for the one that fails.
UNABLE = """
import errno, os, resource, sys
from diffusion_jax import main
from diffusion_jax.report import MetricsWriter
from diffusion_jax.training import saving
fault, host = sys.argv.pop().split()
mine = f'--host={host}' in sys.argv
saving.TIMEOUT_SECONDS = 20
save, flush, mkdir, steps = saving.Checkpoints.save, MetricsWriter.flush, os.mkdir, []
def flush_with_room(self):
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    return flush(self)
def save_in_want(self, state, *args):
    steps.append(int(state.step))
    short = mine and fault == 'write' and 6 <= steps[-1] <= 11
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000 if short else -1, -1))
    save(self, state, *args)
def make(path, *args):
    if mine and fault == 'make' and steps and 6 <= steps[-1] <= 11 and 'tmp' in str(path):
        raise OSError(errno.ENOSPC, 'No space left on device', str(path))
    mkdir(path, *args)
saving.Checkpoints.save, MetricsWriter.flush, os.mkdir = save_in_want, flush_with_room, make
sys.exit(main.main())
"""


@pytest.mark.parametrize(('fault', 'host'), [('write', 0), ('write', 1), ('make', 0)])
def test_what_one_host_cannot_write_all_continue_without(fault, host, split, tmp_path):
    argv = arguments(tmp_path, 'train', **SPLIT)
    codes, printed = ends(start_hosts(argv, f'{fault} {host}', program=('-c', UNABLE)))
    assert codes == [0, 0], '\n'.join(printed)
    for text in printed:
        said = [line for line in text.splitlines() if 'could not be saved' in line]
        assert [re.search(r'step (\d+) could', line).group(1) for line in said] == ['6', '9'], text
        assert all(line.endswith('step 3') for line in said), text
        assert 'Traceback' not in text and 'never awaited' not in text and 'Task was' not in text
    kept = sorted(path.name for path in (tmp_path / 'diffusion' / 'checkpoints').iterdir())
    assert kept == ['15', '18', '20']
    assert_same_end(tmp_path, split, step=20)


@pytest.fixture
def copy(split, tmp_path):
    """The training as it was when step 18 was saved."""
    ignored = shutil.ignore_patterns('20')
    return shutil.copytree(split, tmp_path / 'copy', ignore=ignored)


# The program, in which one host cannot read the checkpoint of step 18 that it finds.
BLIND = """
import errno, sys
import orbax.checkpoint as ocp
from diffusion_jax import main
fault, host = sys.argv.pop().split()
errors = {'damage': ValueError('DATA_LOSS: in its part'), 'disk': OSError(errno.EIO, 'Input/output error')}
restore = ocp.Checkpointer.restore
def restore_in_part(self, folder, *args, **kwargs):
    if folder.name == '18' and f'--host={host}' in sys.argv and fault in errors:
        raise errors[fault]
    return restore(self, folder, *args, **kwargs)
save = ocp.AsyncCheckpointer.save
def save_another(self, *args, **kwargs):
    errors.clear()
    return save(self, *args, **kwargs)
ocp.Checkpointer.restore, ocp.AsyncCheckpointer.save = restore_in_part, save_another
sys.exit(main.main())
"""


@pytest.mark.parametrize('host', [0, 1])
def test_what_one_host_finds_damaged_all_set_aside(host, split, copy):
    argv = arguments(copy, 'train', **SPLIT)
    codes, printed = ends(start_hosts(argv, f'damage {host}', program=('-c', BLIND)))
    assert codes == [0, 0], '\n'.join(printed)
    found = 'on another host' if host else 'cannot be read: DATA_LOSS: in its part'
    assert f'18: damaged ({found}); moved to damaged/18, resuming from step 15' in printed[0]
    assert (copy / 'diffusion' / 'checkpoints' / 'damaged' / '18').is_dir()
    assert_same_end(copy, split, step=20)


def test_a_damaged_part_of_one_host_is_found(split, copy):
    checkpoint = copy / 'diffusion' / 'checkpoints' / '18'
    files = [path for path in (checkpoint / 'params' / 'ocdbt.process_1').rglob('*') if path.is_file()]
    os.truncate(max(files, key=lambda path: path.stat().st_size), 100)
    codes, printed = ends(start_hosts(arguments(copy, 'train', **SPLIT)))
    assert codes == [0, 0], '\n'.join(printed)
    assert re.search(r'18: damaged \(.*\); moved to damaged/18, resuming from step 15', printed[0])
    assert not any('Traceback' in text for text in printed), '\n'.join(printed)
    assert_same_end(copy, split, step=20)


@pytest.mark.parametrize('host', [0, 1])
def test_where_one_host_cannot_read_nothing_is_moved(host, copy):
    argv = arguments(copy, 'train', **SPLIT)
    codes, printed = ends(start_hosts(argv, f'disk {host}', program=('-c', BLIND)))
    assert codes == [2, 2], '\n'.join(printed)
    assert 'another host cannot read it' in printed[1 - host]
    assert re.search(r'18: cannot be read \(Input/output error\)', printed[host])
    assert sorted(path.name for path in (copy / 'diffusion' / 'checkpoints').iterdir()) == ['15', '18']


# The program, in which one host does not see the checkpoint of step 18 yet.
STALE = """
import sys
import orbax.checkpoint as ocp
from diffusion_jax import main
def without_18(steps):
    return lambda *args: [step for step in steps(*args) if step != 18]
if f'--host={sys.argv.pop()}' in sys.argv:
    ocp.utils.checkpoint_steps = without_18(ocp.utils.checkpoint_steps)
sys.exit(main.main())
"""


@pytest.mark.parametrize('host', [0, 1])
def test_hosts_that_see_different_checkpoints_are_refused(host, copy):
    codes, printed = ends(start_hosts(arguments(copy, 'train', **SPLIT), str(host), program=('-c', STALE)))
    assert codes == [2, 2], '\n'.join(printed)
    checkpoints = copy / 'diffusion' / 'checkpoints'
    for own, text in enumerate(printed):
        seen = [15] if own == host else [15, 18]
        assert f'checkpoints in {checkpoints}: hosts see different values, this one {seen};' in text, text
        assert 'Traceback' not in text
    assert sorted(path.name for path in checkpoints.iterdir()) == ['15', '18']


def assert_losses_agree(one, other):
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize('devices', [4, 1])
def test_what_two_hosts_began_one_process_ends(devices, split, copy):
    run_alone(copy, 'train', devices, **TRAININGS)
    assert_losses_agree(copy, split)


def test_what_one_process_began_two_hosts_end(split, tmp_path):
    run_alone(tmp_path, 'train', 1, **TRAININGS)
    shutil.rmtree(tmp_path / 'diffusion' / 'checkpoints' / '20')
    run_hosts(tmp_path, 'train', **SPLIT)
    assert_losses_agree(tmp_path, split)
