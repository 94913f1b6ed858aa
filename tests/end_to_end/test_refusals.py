"""What does not belong to what a run has left is refused, in one line."""

import shutil

from tests.program import run


def test_other_settings_in_one_folder_are_refused(finished, capfd):
    assert run(finished, 'train', train__num_steps=7, train__learning_rate=0.5) == 2
    assert 'train.learning_rate: had 0.001, now 0.5' in capfd.readouterr().err


def test_settings_of_what_is_complete_may_not_change(finished, capfd):
    assert run(finished, train__learning_rate=0.5) == 2
    assert 'train.learning_rate: had 0.001, now 0.5' in capfd.readouterr().err


def test_a_foreign_checkpoint_is_refused(finished, tmp_path, capfd):
    change = {'pretrained__diffusion': finished / 'diffusion', 'unet__model_channels': 64, 'sample__scale': 0}
    assert run(tmp_path, 'sample', **change) == 2
    assert 'another network: model_channels is 32 there and 64 in the config' in capfd.readouterr().err


def test_a_mistaken_path_can_be_corrected(finished, tmp_path):
    assert run(tmp_path, 'train_classifier', pretrained__classifier='/nowhere') == 2
    assert run(tmp_path, 'train_classifier', pretrained__classifier=finished / 'classifier') == 0


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


def test_a_batch_larger_than_memory_is_refused_before_it_is_read(tmp_path, capfd):
    assert run(tmp_path, 'train', train__batch_size=2 * 10**9, train__microbatches=1) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert 'config.train.batch_size is 2000000000: the images of one batch need 640 GB' in said, said
