"""A training that meets an unreadable image loses nothing, and can be resumed in two ways."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import checking
from tests.program import assert_same_end, logged, run

SETTINGS = {
    'data__name': 'folder',
    'data__num_classes': 2,
    'unet__class_conditional': True,
    'train__num_steps': 12,
    'train__batch_size': 8,
    'train__log_every': 4,
    'train__sample_every': 0,
    'train__evaluate_every': 0,
    'train__checkpoint_every': 100,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """96 training images, an epoch of 12 steps, and 8 test images."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for split, count in (('train', 48), ('test', 4)):
        for name in 'ab':
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8))
                image.save(folder / split / name / f'{i:02}.png')
    return folder


@pytest.fixture
def train(folder, monkeypatch):
    """Runs stages on the folder, none of which is read before the first stage."""
    monkeypatch.setattr(checking, 'FEW_FILES', 0)

    def train(workdir, stage='train', **changes):
        return run(workdir, stage, **SETTINGS | {'data__path': folder} | changes)

    return train


@pytest.fixture
def damaged(folder):
    """An image that is cut short, and is repaired when it is called."""
    path = folder / 'train' / 'b' / '07.png'
    content = path.read_bytes()
    path.write_bytes(content[:70])
    yield lambda: path.write_bytes(content)
    path.write_bytes(content)


@pytest.mark.slow
def test_a_repaired_image_gives_the_end_of_a_run_that_met_no_damage(train, folder, damaged, tmp_path, capfd):
    assert train(tmp_path / 'a', data__num_workers=2) == 2
    *_, saved, error = capfd.readouterr().err.splitlines()
    assert error.startswith(f'error: {folder}/train/b/07.png: cannot be read')
    (step,) = (int(path.name) for path in (tmp_path / 'a' / 'diffusion' / 'checkpoints').iterdir())
    assert 0 < step < 12
    assert saved == f'diffusion: step {step} of 12 is saved'
    assert 'repair the file' in error and 'config.data.on_error=skip' in error
    assert train(tmp_path / 'a') == 2
    damaged()
    assert train(tmp_path / 'a') == 0
    assert f'from step {step}' in capfd.readouterr().err
    assert train(tmp_path / 'undisturbed') == 0
    assert_same_end(tmp_path / 'a', tmp_path / 'undisturbed', step=12)


@pytest.mark.slow
def test_a_run_that_stopped_can_be_resumed_with_skip(train, damaged, tmp_path, capfd):
    assert train(tmp_path) == 2
    assert train(tmp_path, data__on_error='skip', data__num_workers=2, train__num_steps=24) == 0
    output = capfd.readouterr().err
    assert output.count('07.png: cannot be read') == 2  # the error, then once in two epochs
    assert train(tmp_path, data__on_error='skip', data__max_skipped=7, data__check_files=True) == 0


@pytest.mark.slow
def test_more_than_the_limit_stop_after_saving(train, damaged, tmp_path, capfd):
    assert train(tmp_path, data__on_error='skip', data__max_skipped=0) == 2
    *_, saved, error = capfd.readouterr().err.splitlines()
    assert 'config.data.max_skipped: got 0' in error and 'is saved' in saved
    assert list((tmp_path / 'diffusion' / 'checkpoints').iterdir())


def test_few_images_are_checked_before_the_first_stage(train, damaged, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(checking, 'FEW_FILES', 1_000)
    assert train(tmp_path) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert '1 of the 96 train images cannot be read' in error and '07.png' in error
    assert not (tmp_path / 'diffusion').exists()


@pytest.mark.slow
def test_validation_and_likelihood_leave_unreadable_images_out(train, folder, tmp_path, capfd):
    path = folder / 'test' / 'a' / '02.png'
    content = path.read_bytes()
    path.write_bytes(b'')
    try:
        stages, few = (
            'train_classifier,train,likelihood',
            {'train__num_steps': 1, 'train_classifier__num_steps': 2},
        )
        few |= {'likelihood__respacing': '2', 'likelihood__batch_size': 8}
        assert train(tmp_path, stages, **few) == 2
        *_, saved, error = capfd.readouterr().err.splitlines()
        assert 'a/02.png: cannot be read' in error and 'step 2 of 2 is saved' in saved
        assert train(tmp_path, stages, data__on_error='skip', **few) == 0
    finally:
        path.write_bytes(content)
    (line,) = (each for each in logged(tmp_path / 'classifier') if 'validation_loss' in each)
    assert line['validation_left_out'] == 1
    result = json.loads((tmp_path / 'likelihood' / 'likelihood.json').read_text())
    assert (result['num_images'], result['left_out']) == (7, 1)
    capfd.readouterr()
    assert train(tmp_path, 'likelihood', data__on_error='skip', **few) == 0
    assert 'likelihood: complete already' in capfd.readouterr().err
