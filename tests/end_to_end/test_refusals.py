"""What does not belong to what a run has left is refused, in one line."""

import shutil

from tests.program import run


def test_other_settings_in_one_folder_are_refused(finished, capfd):
    assert run(finished, 'train', train__num_steps=7, train__learning_rate=0.5) == 2
    assert 'train.learning_rate: had 0.001, now 0.5' in capfd.readouterr().err


def test_a_name_keeps_what_it_holds(finished, capfd):
    change = {'sample__name': 'kept', 'sample__num_samples': 7, 'sample__scale': 0}
    assert run(finished, 'sample', **change) == 0
    assert run(finished, 'sample,evaluate', **change | {'sample__scale': 1.0}) == 2
    assert 'sample.scale: had 0.0, now 1.0' in capfd.readouterr().err


def test_damaged_files_are_named(finished, tmp_path, capfd):
    for name in ('shards/00000000-00000016.npz', 'stamp.json'):
        copy = tmp_path / name.replace('/', '_')
        shutil.copytree(finished, copy)
        (copy / 'evaluation.json').unlink()
        (copy / 'samples' / name).write_bytes(b'junk\n')
        assert run(copy, 'sample,evaluate') == 2
        assert f'samples/{name}' in capfd.readouterr().err.splitlines()[-1]
