"""What samples are made of: labels balanced, at random or as given, and base samples of an upsampler."""

import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.errors import UserError
from diffusion_jax.generation.shards import draw_samples, join
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages.inputs import check_inputs
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample_inputs import (
    classes_to_sample,
    content_digest,
    load_base,
    load_labels,
    sample_inputs,
)
from tests.program import arguments

INDEX = np.arange(25)


def make_run(**changes):
    experiment = main.read_experiment(main.parse_flags(arguments('unused', **changes)).config)
    return Run(experiment, None, make_mesh(), lambda: False)


def test_balanced_labels_go_around_and_random_ones_rest_on_the_seed():
    labels, _ = sample_inputs(make_run())(INDEX)
    np.testing.assert_array_equal(labels, INDEX % 10)
    one, again, other = (
        sample_inputs(make_run(sample__labels='random', sample__seed=seed))(INDEX)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and set(one) <= set(range(10))


def test_the_classes_of_the_first_samples():
    """Another number than that of the stage is sampled for the evaluation during training."""
    run = make_run(unet__class_conditional=True)
    assert classes_to_sample(run, 3, guided=False).labels == (0, 1, 2)
    assert classes_to_sample(run, 12, guided=False).all
    random = make_run(unet__class_conditional=True, sample__labels='random')
    assert classes_to_sample(random, 3, guided=False).all
    assert classes_to_sample(make_run(), 3, guided=False) is None


@pytest.mark.parametrize('kind', ['npy', 'npz'])
def test_labels_as_given(tmp_path, kind):
    given = np.array([3, 3, 9, 0])
    path = tmp_path / f'labels.{kind}'
    np.save(path, given) if kind == 'npy' else np.savez(path, arr_1=given)
    labels, low_res = sample_inputs(make_run(sample__labels=path))(INDEX)
    np.testing.assert_array_equal(labels, given[INDEX % 4])
    assert low_res is None


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (np.array([0, 10]), r'label 1 is 10; labels are from 0 to 9'),
        (np.zeros((2, 2), int), 'holds no labels'),
        (np.zeros(3), 'holds no labels'),
        (None, '.*No such file'),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    path = tmp_path / 'labels.npy'
    if labels is not None:
        np.save(path, labels)
    with pytest.raises(UserError, match=rf'labels.npy: {message}'):
        load_labels(make_run(sample__labels=path))


def test_classes_and_a_file_of_labels_exclude_each_other():
    with pytest.raises(UserError, match=r'config.sample.classes is \(3,\)'):
        make_run(sample__labels='x.npy', sample__classes='(3,)')
    with pytest.raises(UserError, match=r'config.sample.labels is .*; it must be one of'):
        make_run(sample__labels='uniform')


def test_a_folder_of_samples_and_its_file_are_the_same_base(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
    draw_samples(tmp_path, 'base', lambda i: (images[i % 10], i % 10), 10, 4, lambda: False)
    join(tmp_path, tmp_path / 'base.npz')
    for path in (tmp_path, tmp_path / 'base.npz'):
        run = make_run(data__low_res_size='(4, 4)', sample__base_samples=path, sample__scale=0)
        labels, low_res = sample_inputs(run)(INDEX)
        np.testing.assert_array_equal(low_res, images[INDEX % 10])
        np.testing.assert_array_equal(
            labels, np.zeros(25) if run.experiment.unet.num_classes is None else INDEX % 10
        )
    digest = content_digest(tmp_path)
    (tmp_path / 'shards' / '00000000-00000004.npz').unlink()
    assert content_digest(tmp_path) != digest


def test_base_samples_of_another_size_are_refused(tmp_path):
    np.savez(tmp_path / 'base.npz', np.zeros((3, 5, 4, 1), np.uint8))
    with pytest.raises(UserError, match=r'base.npz: its images are \[5, 4, 1\]; needed are \[4, 4, 1\]'):
        load_base(make_run(data__low_res_size='(4, 4)', sample__base_samples=tmp_path / 'base.npz'))
    with pytest.raises(UserError, match='base_samples is not set'):
        check_inputs(
            make_run(data__low_res_size='(4, 4)', sample__scale=0, stages="('train','sample')"),
            ['train', 'sample'],
        )
