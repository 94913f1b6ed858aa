"""The stage as its users run it, with a conditional upsampler of digits: all that a bound can depend on."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import main
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import load_batch
from diffusion_jax.data.sources import make_source
from diffusion_jax.errors import UserError
from diffusion_jax.generation import Generator
from diffusion_jax.images import reduce_images
from diffusion_jax.models import param_shapes
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages import likelihood
from diffusion_jax.weights.files import Spec, load_weights, read_spec, save_weights
from tests.program import arguments
from tests.stages.runs import make_run, read_experiment

UPSAMPLER = {
    'data__low_res_size': '(4,4)',
    'unet__class_conditional': True,
    'likelihood__respacing': '3',
    'likelihood__clip': False,
}
FEW = {'likelihood__num_images': 20, 'likelihood__batch_size': 8}


def read(folder):
    return json.loads((folder / 'likelihood.json').read_text())


@pytest.fixture(scope='module')
def experiment():
    return read_experiment(**UPSAMPLER)


@pytest.fixture(scope='module')
def weights(experiment, tmp_path_factory):
    rng = np.random.default_rng(0)
    shapes = param_shapes(experiment.unet)
    params = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes)
    path = tmp_path_factory.mktemp('weights') / 'upsampler.safetensors'
    save_weights(path, Spec(experiment.unet, experiment.diffusion), params)
    return path


@pytest.fixture(scope='module')
def run(weights):
    def run(workdir, **changes):
        settings = {'pretrained__diffusion': weights} | UPSAMPLER | FEW | changes
        return main.main(arguments(workdir, 'likelihood', **settings))

    return run


@pytest.fixture(scope='module')
def finished(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('digits')
    assert run(workdir) == 0
    return workdir


def test_the_numbers_are_those_of_the_images_with_their_labels_and_reductions(finished, experiment, weights):
    result = read(finished / 'likelihood')
    index = np.random.default_rng(0).permutation(297)[:20]
    batch = load_batch(make_source(DataConfig('digits'), 'test'), index)
    params = load_weights(weights)[1]
    model = Generator(experiment.unet, experiment.diffusion, {'diffusion': params}, make_mesh())
    batches = [
        model.bits_per_dimension(
            batch['image'][rows],
            batch['label'][rows],
            index=index[rows],
            respacing='3',
            clip=False,
            low_res=reduce_images(batch['image'][rows], (4, 4)),
        )
        for rows in (slice(0, 8), slice(8, 16), slice(16, 20))
    ]
    terms = {name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
    for name in ('prior', 'vb', 'x_0_mse', 'eps_mse'):
        np.testing.assert_allclose(result[name], terms[name].mean(axis=0), rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(result['bits_per_dimension'], terms['total'].mean(), rtol=1e-4)
    np.testing.assert_allclose(result['standard_error'], terms['total'].std(ddof=1) / 20**0.5, rtol=1e-3)
    assert result['decoder'] == result['vb'][0] and result['num_images'] == 20
    assert result['timesteps'] == [0, 24, 49]


def test_images_that_were_left_out_are_in_no_mean(tmp_path):
    """They have a negative index."""
    rng = np.random.default_rng(0)
    terms = {name: rng.random((6, 3), np.float32) for name in ('vb', 'x_0_mse', 'eps_mse')}
    terms |= {name: rng.random(6, np.float32) for name in ('total', 'prior')}
    index = np.array([7, ~3, 4, 0, ~1, 2])
    for first in (0, 3):
        rows = {name: term[first : first + 3] for name, term in ({'index': index} | terms).items()}
        np.savez(tmp_path / f'{first:08d}-{first + 3:08d}.npz', **rows)
    result = likelihood.mean_terms(tmp_path, 5)
    used = [0, 2, 3]
    assert (result['num_images'], result['left_out']) == (3, 2)
    np.testing.assert_allclose(result['bits_per_dimension'], terms['total'][used].mean(), rtol=1e-6)
    np.testing.assert_allclose(result['standard_error'], terms['total'][used].std(ddof=1) / 3**0.5, rtol=1e-6)
    for name in ('prior', 'vb', 'x_0_mse', 'eps_mse'):
        np.testing.assert_allclose(result[name], terms[name][used].mean(axis=0), rtol=1e-6)
    assert '3 images, 2 left out' in likelihood.summary(result)
    with pytest.raises(UserError) as error:
        likelihood.mean_terms(tmp_path, 2)
    assert error.value.where == str(tmp_path) and '1 of 2' in error.value.problem


def test_the_protocol_says_what_the_bound_is_of(finished, run, weights, capfd):
    protocol = read(finished / 'likelihood')['protocol']
    assert protocol['likelihood'] == {'split': 'test', 'respacing': '3', 'seed': 0, 'clip': False}
    assert protocol['steps'] == 3 and protocol['data']['name'] == 'digits'
    assert protocol['diffusion']['digest'] == read_spec(weights).digest
    assert run(finished, likelihood__batch_size=16) == 0
    assert 'complete already' in capfd.readouterr().err


def test_other_settings_go_to_a_folder_of_their_own(finished, run):
    assert run(finished, likelihood__split='train', likelihood__seed=1) == 0
    other = read(finished / 'likelihood' / 'split=train,seed=1')
    assert other['bits_per_dimension'] != read(finished / 'likelihood')['bits_per_dimension']


def test_a_stopped_run_goes_on_to_the_same_end_and_further(finished, run, tmp_path, monkeypatch, capfd):
    def stop_after_this_batch(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return load_batch(*args, **kwargs)

    load_batch = likelihood.load_batch
    with monkeypatch.context() as patch:
        patch.setattr(likelihood, 'load_batch', stop_after_this_batch)
        assert run(tmp_path) == 130
    assert 'stopped after 8 of 20 images, which are saved' in capfd.readouterr().err
    assert run(tmp_path) == 0
    assert read(tmp_path / 'likelihood') == read(finished / 'likelihood')
    assert run(tmp_path, likelihood__num_images=24) == 0
    assert read(tmp_path / 'likelihood')['num_images'] == 24
    names = sorted(path.name for path in (tmp_path / 'likelihood' / 'shards').iterdir())
    assert names == [f'{a:08d}-{b:08d}.npz' for a, b in ((0, 8), (8, 16), (16, 20), (20, 24))]
    assert run(tmp_path) == 0
    assert read(tmp_path / 'likelihood') == read(finished / 'likelihood')


@pytest.mark.parametrize(
    ('setting', 'value'),
    [('split', 'validation'), ('num_images', 1), ('num_images', -1), ('respacing', '51'), ('seed', -1)],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(UserError) as error:
        read_experiment(**{f'likelihood__{setting}': value})
    assert f'config.likelihood.{setting}' in str(error.value) and str(value) in str(error.value)


@pytest.mark.parametrize(('setting', 'value'), [('num_images', 298), ('batch_size', 12)])
def test_images_and_devices_must_suffice(weights, setting, value):
    settings = UPSAMPLER | {'pretrained__diffusion': weights, f'likelihood__{setting}': value}
    with pytest.raises(UserError) as error:
        likelihood.check(make_run(stages=('likelihood',), **settings))
    assert f'config.likelihood.{setting}' in str(error.value) and str(value) in str(error.value)
    largest = {'num_images': 297, 'batch_size': 16}[setting]
    likelihood.check(make_run(stages=('likelihood',), **settings | {f'likelihood__{setting}': largest}))


def test_without_a_network_there_is_no_bound(tmp_path):
    with pytest.raises(UserError) as error:
        likelihood.check(make_run(tmp_path, ('likelihood',), **UPSAMPLER))
    assert error.value.where == str(tmp_path / 'diffusion' / 'checkpoints')
    assert 'config.pretrained.diffusion' in error.value.remedy


def test_other_images_of_the_same_names_are_another_result(weights, tmp_path):
    def stamp(folder):
        for i in range(10):
            (folder / str(i)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / str(i) / 'a.png')
        splits = {'data__train_split': '', 'data__test_split': ''}
        data = {'data__name': 'folder', 'data__path': folder} | splits
        return likelihood.locate(make_run(pretrained__diffusion=weights, **UPSAMPLER | data)).stamp

    one, two = stamp(tmp_path / 'one'), stamp(tmp_path / 'two')
    assert one['images'] == two['images'] and one != two
    assert one == stamp(tmp_path / 'one')
