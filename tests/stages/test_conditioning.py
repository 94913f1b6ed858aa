"""Conditioning: labels balanced, at random or from a file, and base samples of an upsampler."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.shards import draw_samples, join
from diffusion_jax.report import Progress
from diffusion_jax.stages import sample
from diffusion_jax.stages.base import content_digest, open_base
from diffusion_jax.stages.evaluate import classes_to_sample
from diffusion_jax.stages.labels import load_labels, make_labels
from diffusion_jax.stages.sample import make_conditioning
from tests.stages.runs import make_run

INDEX = np.arange(25)
UPSAMPLER = {'data__low_res_size': '(4, 4)', 'sample__scale': 0}


def test_balanced_labels_cycle_through_the_classes():
    labels, low_res = make_conditioning(make_run())(INDEX)
    np.testing.assert_array_equal(labels, INDEX % 10)
    assert low_res is None
    np.testing.assert_array_equal(make_labels(SampleConfig(classes=(7, 2, 5)), 10, INDEX[:4]), [7, 2, 5, 7])


def test_random_labels_depend_on_the_seed_and_the_index():
    """These values were sampled by every version so far."""
    config = SampleConfig(labels='random', seed=3)
    labels = make_labels(config, 10, INDEX)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels[:12], [2, 1, 6, 5, 1, 6, 3, 8, 0, 0, 1, 2])
    np.testing.assert_array_equal(make_labels(config, 10, INDEX[5:9]), labels[5:9])
    assert set(make_labels(config, 10, np.arange(100))) == set(range(10))
    few = make_labels(SampleConfig(labels='random', classes=(7, 2)), 10, INDEX)
    assert set(few) == {2, 7}


def test_the_classes_of_the_first_samples():
    """The evaluation during training samples another number than the stage."""
    run = make_run(unet__class_conditional=True)
    assert classes_to_sample(run.unguided(3)).labels == (0, 1, 2)
    assert classes_to_sample(run.unguided(12)).all
    random = make_run(unet__class_conditional=True, sample__labels='random')
    assert classes_to_sample(random.unguided(3)).all
    assert classes_to_sample(make_run().unguided()) is None
    populations = make_run(unet__class_conditional=True, sample__sampler='smc:particles=2')
    assert classes_to_sample(populations.unguided(6)).labels == (0, 1, 2)


@pytest.mark.parametrize('kind', ['npy', 'npz'])
def test_labels_of_a_file(tmp_path, kind):
    given = np.array([3, 3, 9, 0])
    path = tmp_path / f'labels.{kind}'
    np.save(path, given) if kind == 'npy' else np.savez(path, arr_1=given)
    labels, low_res = make_conditioning(make_run(sample__labels=path))(INDEX)
    np.testing.assert_array_equal(labels, given[INDEX % 4])
    assert low_res is None


@pytest.mark.parametrize(
    ('labels', 'found'),
    [
        (np.array([0, 10]), 'label 1 is 10'),
        (np.array([0, 3, -1]), 'label 2 is -1'),
        (np.zeros((2, 2), int), 'labels'),
        (np.zeros(3), 'labels'),
        (np.zeros(0, int), 'labels'),
        (None, ''),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, found):
    path = tmp_path / 'labels.npy'
    if labels is not None:
        np.save(path, labels)
    with pytest.raises(UserError) as error:
        load_labels(make_run(sample__labels=path))
    assert str(path) in error.value.where and found in error.value.problem


@pytest.fixture
def base(tmp_path):
    """Ten images in a folder of samples and in an npz."""
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
    draw_samples(tmp_path, Progress('base', 10), lambda i: (images[i % 10], i % 10), 10, 4, lambda: False)
    join(tmp_path, tmp_path / 'base.npz')
    return tmp_path, images


@pytest.mark.parametrize('conditional', [False, True])
def test_a_folder_of_samples_and_its_file_are_the_same_base(base, conditional):
    folder, images = base
    for path in (folder, folder / 'base.npz'):
        run = make_run(sample__base_samples=path, unet__class_conditional=conditional, **UPSAMPLER)
        labels, low_res = make_conditioning(run)(INDEX)
        np.testing.assert_array_equal(low_res, images[INDEX % 10])
        np.testing.assert_array_equal(labels, INDEX % 10 if conditional else np.zeros(25))


def test_only_the_base_samples_of_a_batch_are_read(base):
    folder, images = base
    batch = make_conditioning(make_run(sample__base_samples=folder, **UPSAMPLER))
    for name in ('00000000-00000004.npz', '00000004-00000008.npz'):
        (folder / 'shards' / name).unlink()
    np.testing.assert_array_equal(batch(np.array([8, 19]))[1], images[[8, 9]])


def test_other_base_samples_have_another_digest(base):
    folder, _ = base
    before = content_digest(folder), content_digest(folder / 'base.npz')
    (folder / 'shards' / '00000000-00000004.npz').unlink()
    assert content_digest(folder) != before[0] != before[1] == content_digest(folder / 'base.npz')


@pytest.mark.parametrize(
    ('arrays', 'conditional', 'found'),
    [
        ({'arr_0': np.zeros((3, 5, 4, 3), np.uint8)}, False, '(4, 4, 3)'),
        ({'arr_0': np.zeros((3, 4, 4, 1), np.uint8)}, True, 'no labels'),
        ({'arr_0': np.zeros((1, 4, 4, 1), np.uint8), 'arr_1': np.array([10])}, True, 'label 0 is 10'),
    ],
)
def test_base_samples_that_do_not_fit_are_refused(tmp_path, arrays, conditional, found):
    path = tmp_path / 'base.npz'
    np.savez(path, **arrays)
    with pytest.raises(UserError) as error:
        open_base(make_run(sample__base_samples=path, unet__class_conditional=conditional, **UPSAMPLER))
    assert error.value.where == str(path) and found in error.value.problem


def test_an_upsampler_needs_base_samples(tmp_path):
    with pytest.raises(UserError) as error:
        sample.check(make_run(stages=('train', 'sample'), **UPSAMPLER))
    assert error.value.where == 'config.sample.base_samples'
    with pytest.raises(UserError) as error:
        open_base(make_run(sample__base_samples=tmp_path, **UPSAMPLER))
    assert error.value.where == f'config.sample.base_samples: {tmp_path}'


def test_samples_of_another_size_are_refused(base):
    """Pictures would be cropped."""
    folder, _ = base
    with pytest.raises(UserError) as error:
        open_base(make_run(sample__base_samples=folder, **UPSAMPLER | {'data__low_res_size': '(2, 4)'}))
    assert error.value.where == str(folder) and '(4, 4, 1)' in error.value.problem


def test_the_samples_of_a_run(base, tmp_path):
    folder, images = base
    (tmp_path / 'run').mkdir()
    (folder / 'shards').rename(tmp_path / 'run' / 'samples')
    run = make_run(sample__base_samples=tmp_path / 'run', **UPSAMPLER)
    np.testing.assert_array_equal(open_base(run)[0].take(np.arange(10)), images)
    (tmp_path / 'trained' / 'diffusion' / 'checkpoints').mkdir(parents=True)
    with pytest.raises(UserError) as error:
        open_base(make_run(sample__base_samples=tmp_path / 'trained', **UPSAMPLER))
    assert error.value.where == str(tmp_path / 'trained') and 'config.base.diffusion' in error.value.remedy
