"""The soak's own eyes and hands, on what a run might have left; the soak itself takes minutes."""

import random
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from soaking import comparison, faults
from soaking.run import Run

from experiments import soak

NO_FAULT = {'kind': 'SIGKILL', 'did': 'killed', 'step': 50, 'resumed_at': 50, 'seconds': 5.0, 'moved': 0}
RESULT = {
    'minutes': 6.0,
    'seed': 0,
    'steps': 1500,
    'tmpfs': True,
    'machine': 'x86_64',
    'faults': [
        NO_FAULT,
        NO_FAULT | {'step': 90, 'seconds': 7.0},
        NO_FAULT | {'step': 150, 'seconds': 9.0},
        NO_FAULT | {'kind': 'SIGTERM', 'resumed_at': 56, 'seconds': 4.0},
        NO_FAULT | {'kind': 'all of it missing', 'step': 120, 'moved': 1},
    ],
    'equal': {'params': True, 'metrics': False},
}


def row(table, name):
    (line,) = [line for line in table.splitlines() if line.startswith(f'| {name} |')]
    return [cell.strip() for cell in line.split('|')[2:-1]]


def test_the_table():
    table = soak.table(RESULT)
    assert '6 minutes, seed 0, 1,500 steps; x86_64' in table
    assert row(table, 'SIGKILL') == ['3', '0', '40', '100', '7.0']
    assert row(table, 'SIGTERM') == ['1', '0', '0', '0', '4.0']  # goes on from beyond the last line
    assert row(table, 'all of it missing') == ['1', '1', '70', '70', '5.0']
    assert row(table, 'a file of it missing') == ['0', '', '', '', '']
    assert row(table, 'all') == ['5', '1', '40', '100', '5.0']
    assert '- params: yes\n- metrics: NO\n' in table
    assert 'No small disk' not in table
    assert 'faults of a full disk were left out' in soak.table(RESULT | {'tmpfs': False})


def test_every_array_of_a_checkpoint_is_found(tmp_path):
    """In every item that holds arrays; keys by their numbers."""
    saver, key = ocp.StandardCheckpointer(), jax.random.key(3)
    saver.save(tmp_path / '50' / 'params', {'w': np.arange(4.0), 'b': {'c': np.ones(2)}})
    saver.save(tmp_path / '50' / 'training', {'key': key})
    saver.wait_until_finished()
    (tmp_path / '50' / 'progress').mkdir()
    found = comparison.arrays(tmp_path / '50')
    assert found.keys() == {"params['w']", "params['b']['c']", "training['key']"}
    np.testing.assert_array_equal(found["params['w']"], np.arange(4.0))
    np.testing.assert_array_equal(found["training['key']"], jax.random.key_data(key))


def test_differences_are_found_to_the_last_bit():
    ours = {"params['w']": np.ones(2), "training['m']": np.asarray([1.0, 2.0])}
    assert comparison.same_arrays(ours, dict(ours)) == {'params': True, 'training': True}
    other = ours | {"training['m']": np.asarray([1.0, np.nextafter(2.0, 3.0)])}
    assert comparison.same_arrays(ours, other) == {'params': True, 'training': False}


class Killed:
    """A process that ends by the signal it is sent."""

    def send_signal(self, number):
        self.number = number

    def wait(self, timeout):
        return -self.number


@pytest.fixture
def run(tmp_path):
    """What a run might have left: two checkpoints and two lines, the second of them half-written."""
    run = Run(tmp_path / 'run', tmp_path / 'cache', tmp_path / 'run.log')
    run.process, run.written = Killed(), 0
    run.log.write_text('diffusion: resuming from step 40\n')
    for step in ('50', '100'):
        (run.checkpoints / step / 'params' / 'd').mkdir(parents=True)
        (run.checkpoints / step / 'params' / 'd' / 'data').write_bytes(bytes(1000))
        (run.checkpoints / step / 'params' / '_METADATA').write_bytes(b'{}')
    (run.checkpoints / '150.orbax-checkpoint-tmp').mkdir()
    run.metrics.write_text('{"step": 80, "loss": 0.5, "time/step_s": 0.1}\n{"step": 90, "lo')
    return run


def test_what_a_run_has_left_is_read(run):
    assert run.saved() == [50, 100] and run.step() == 80 and run.resumed_at() == 40
    assert not run.is_sampling()
    grids = run.workdir / 'diffusion' / 'grids'
    grids.mkdir()
    time.sleep(0.02)
    (grids / 'step_00000090.png').touch()
    assert run.is_sampling()
    time.sleep(0.02)
    run.metrics.write_text(
        '{"step": 80, "loss": 0.5, "time/step_s": 0.1}\n{"step": 90, "time/evaluation_s": 2}\n'
    )
    assert not run.is_sampling()
    assert run.results() == [{'step': 80, 'loss': 0.5}]


def test_damage_of_the_newest_checkpoint(run):
    data = run.checkpoints / '100' / 'params' / 'd' / 'data'
    did = faults.flip_bit(run, random.Random(0))
    content = data.read_bytes()
    (byte,) = np.flatnonzero(np.frombuffer(content, np.uint8))
    bit = int(content[byte]).bit_length() - 1
    assert content[byte] == 1 << bit
    assert did == f'flipped bit {bit} of byte {byte} of 100/params/d/data'
    did = faults.truncate(run, random.Random(0))
    assert did == f'left {len(data.read_bytes())} of 1000 bytes of 100/params/d/data'
    assert faults.remove_file(run, random.Random(0)) == 'removed 100/params/d/data' and not data.exists()
    assert faults.empty_folder(run, random.Random(0)) == 'emptied 100'
    assert list((run.checkpoints / '100').iterdir()) == []
    assert (run.checkpoints / '50' / 'params' / 'd' / 'data').read_bytes() == bytes(1000)
    assert run.process.number == signal.SIGKILL
