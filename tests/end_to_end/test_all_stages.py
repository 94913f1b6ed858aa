"""The results of a complete run, and their use by other runs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import main
from tests.program import arguments, leaves, logged, run


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
    for name in ('precision', 'unguided_precision', 'recall', 'unguided_recall'):
        assert 0 <= result[name] <= 1
    assert result['frechet_distance'] > 0 and result['unguided_frechet_distance'] > 0
    protocol = result['protocol']
    assert protocol['sampler'] == 'ddim' and protocol['steps'] == 5 and protocol['checkpoint_step'] == 6
    experiment = main.read_experiment(main.parse_flags(arguments('unused')).config)
    assert protocol['scale'] == experiment.sample.scale
    assert protocol['ema_rate'] == 0.995 and protocol['seed'] == 0
    assert protocol['diffusion']['step'] == 6 and protocol['classifier']['step'] == 4


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


@pytest.mark.slow
def test_another_sampler_and_guidance(finished, capfd):
    change = {
        'sample__sampler': 'heun:s_churn=5',
        'sample__respacing': 'karras:3',
        'sample__guidance': 'classifier:scale=2/interval:low=0.5/reuse:every=2',
        'sample__name': 'heun',
        'sample__unguided': False,
    }
    assert run(finished, 'sample,evaluate', **change) == 0
    assert run(finished, 'sample', **change) == 0
    assert 'sample: complete already' in capfd.readouterr().err
    folder = finished / 'samples' / 'heun'
    protocol = json.loads((folder / 'evaluation.json').read_text())['protocol']
    assert protocol['steps'] == 3 and protocol['timesteps'] == 'fractional'
    assert {name: protocol[name] for name in ('sampler', 'respacing', 'guidance')} == {
        name: change[f'sample__{name}'] for name in ('sampler', 'respacing', 'guidance')
    }
    assert run(finished, 'sample', **change | {'sample__guidance': 'reconstruction'}) == 2
    assert 'sample.guidance: had classifier:scale=2' in capfd.readouterr().err


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
    assert run(tmp_path, 'train_classifier', pretrained__classifier='/nowhere') == 2  # a mistake
    change = {'pretrained__classifier': finished / 'classifier', 'train_classifier__learning_rate': 1e-12}
    assert run(tmp_path, 'train_classifier', **change) == 0
    start = leaves(finished / 'classifier' / 'checkpoints' / '4')
    tuned = leaves(tmp_path / 'classifier' / 'checkpoints' / '4')
    for name, value in start.items():
        if name.startswith('params'):
            np.testing.assert_allclose(tuned[name], value, atol=1e-6)


def test_a_classifier_serves_every_parameterization(finished, capfd):
    assert run(finished, 'train_classifier', diffusion__prediction='eps') == 0
    assert 'complete already' in capfd.readouterr().err


@pytest.mark.slow
def test_training_is_extended(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'copy')
    assert run(tmp_path / 'copy', 'train_classifier,sample', train_classifier__num_steps=5) == 0
    assert (tmp_path / 'copy' / 'classifier' / 'checkpoints' / '5').is_dir()
    assert (tmp_path / 'copy' / 'samples' / 'classifier.step=5' / 'samples.npz').exists()


@pytest.mark.slow
def test_a_network_that_was_trained_otherwise_makes_other_samples(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'copy')
    shutil.rmtree(tmp_path / 'copy' / 'classifier')
    change = {'train_classifier__learning_rate': 0.1, 'sample__unguided': False}
    assert run(tmp_path / 'copy', 'train_classifier,sample', **change) == 0
    (other,) = (tmp_path / 'copy' / 'samples').glob('classifier.settings=*')
    assert (other / 'samples.npz').exists()


@pytest.mark.slow
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
    }
    assert run(tmp_path / 'run', **changes) == 0
    with np.load(tmp_path / 'run' / 'samples' / 'samples.npz') as samples:
        assert samples['arr_0'].shape == (20, 8, 16, 3) and set(samples['arr_1']) == {0, 1}
    assert json.loads((tmp_path / 'run' / 'evaluation.json').read_text())['num_samples'] == 20
    assert [path.name for path in (tmp_path / 'run' / 'diffusion' / 'checkpoints').iterdir()] == ['6']
    (tmp_path / 'images' / 'train' / 'cats' / '3.png').write_bytes(b'no image')
    assert run(tmp_path / 'again', 'train', **changes) == 2
