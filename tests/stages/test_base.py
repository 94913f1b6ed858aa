"""One command for two stages, and pictures of one's own, with upsamplers of digits."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.errors import UserError
from diffusion_jax.generation import load
from diffusion_jax.models import param_shapes
from diffusion_jax.stages import base, sample
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.workdir import write_stamp
from tests.errors import refused
from tests.generation.shared import closeness
from tests.generation.test_loading import save_training
from tests.program import run
from tests.stages.runs import make_run, read_experiment

UPSAMPLER = {'data__low_res_size': '(4,4)', 'unet__class_conditional': True, 'sample__scale': 0}
FEW = {
    'sample__num_samples': 20,
    'sample__batch_size': 16,
    'sample__sampler': 'ddpm',
    'sample__respacing': '3',
    'sample__seed': 3,
}
FOLDER = 'base'


def save(path, network, process, **facts):
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), param_shapes(network)
    )
    save_weights(path, Spec(network, process, **facts), params)
    return path


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Weights of an upsampler from 4×4 to 8×8 pixels, and of base models that fit or do not."""
    folder = tmp_path_factory.mktemp('weights')
    experiment = read_experiment(**UPSAMPLER)
    small = dataclasses.replace(experiment.unet, low_res=False, image_size=(4, 4))
    networks = {
        'base': small,
        'unconditional': dataclasses.replace(small, num_classes=None),
        'larger': dataclasses.replace(small, image_size=(6, 4)),
        'seven': dataclasses.replace(small, num_classes=7),
        'colour': dataclasses.replace(small, image_channels=3, out_channels=6),
    }
    for name, network in networks.items():
        save(folder / f'{name}.safetensors', network, experiment.diffusion)
    save(folder / 'up.safetensors', experiment.unet, experiment.diffusion, low_res_size=(4, 4))
    guide = dataclasses.replace(experiment.classifier, image_size=(4, 4))
    save(folder / 'guide.safetensors', guide, experiment.diffusion)
    save(folder / 'named.safetensors', small, experiment.diffusion, classes=tuple('abcdefghij'))
    return folder


def settings(files, name='base', **changes):
    given = {
        'pretrained__diffusion': files / 'up.safetensors',
        'base__diffusion': files / f'{name}.safetensors',
    }
    return UPSAMPLER | FEW | given | {'base__recipe': 'ddim'} | changes


@pytest.fixture(scope='module')
def finished(files, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    assert run(workdir, 'sample', **settings(files, sample__classes='7,2')) == 0
    return workdir


def images_of(folder):
    return open_samples(folder).read_all()


def test_one_command_samples_what_two_models_sample_in_python(finished, files):
    pair = load(files / 'base.safetensors').then(load(files / 'up.safetensors'))
    options = {'base': {'recipe': 'ddim'}, 'upsampler': {'sampler': 'ddpm', 'respacing': '3'}}
    expected = pair.sample(16, [7, 2] * 8, seed=3, **options)
    assert closeness(images_of(finished / 'samples')[:16], expected) <= 1
    assert closeness(images_of(finished / FOLDER)[:16], expected.base) <= 1
    for folder in ('samples', FOLDER):
        np.testing.assert_array_equal(open_samples(finished / folder).labels, [7, 2] * 10)


def test_a_run_without_some_of_its_images_makes_the_same_again(finished, files, tmp_path, capfd):
    workdir = tmp_path / 'run'
    shutil.copytree(finished, workdir)
    for folder in (FOLDER, 'samples'):
        (workdir / folder / 'shards' / '00000000-00000016.npz').unlink()
    (workdir / 'samples' / 'grid.png').unlink()
    same = settings(files, sample__classes='7,2')
    assert run(workdir, 'sample', **same) == 0
    for folder in (FOLDER, 'samples'):
        np.testing.assert_array_equal(images_of(workdir / folder), images_of(finished / folder))
    capfd.readouterr()
    assert run(workdir, 'sample', **same) == 0
    assert 'complete already' in capfd.readouterr().err


def test_other_settings_of_a_stage_are_other_results(finished, files):
    def folders(**changes):
        made = make_run(finished, **settings(files, sample__classes='7,2', **changes))
        stage = sample.locate(made)
        return base.locate(made).directory.relative_to(finished).as_posix(), stage.directory.name

    assert folders() == (FOLDER, 'samples')
    assert folders(sample__respacing='4') == (FOLDER, 'respacing=4')
    changed = folders(base__recipe='default')
    assert changed[0].startswith(f'{FOLDER}/sampler=DDPM') and 'sampler' in changed[1]
    changed = folders(base__diffusion=files / 'unconditional.safetensors')
    assert changed[0] != FOLDER and changed[1] != 'samples'
    given = {'base__diffusion': '', 'base__recipe': '', 'sample__base_samples': finished / FOLDER}
    made = make_run(finished, **settings(files, sample__classes='7,2', **given))
    assert sample.locate(made).directory.name != 'samples'


def test_the_base_model_has_its_own_classifier_scale_and_average(files, tmp_path):
    def stamp(**changes):
        return base.locate(make_run(tmp_path, **settings(files, **changes))).stamp

    guided = stamp(base__classifier=files / 'guide.safetensors', base__scale=2.0)
    assert guided['sample']['guidance'] == 'ClassifierGuidance(scale=2.0)' and guided['classifier']['digest']
    assert stamp()['sample']['guidance'] == '' and 'classifier' not in stamp()
    experiment = read_experiment(**UPSAMPLER)
    small = dataclasses.replace(experiment.unet, low_res=False, image_size=(4, 4))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(small))
    save_training(tmp_path / 'small' / 'diffusion', small, params)
    trained = stamp(base__diffusion=tmp_path / 'small')['diffusion']
    assert trained['folder'] == 'small/diffusion' and trained['ema_rate'] == 0.99


def test_the_recipe_of_a_run_is_recorded_with_all_its_options(files, tmp_path):
    """Here that of its samples: a mixture of classes in an interval of noise levels."""
    experiment = read_experiment(**UPSAMPLER)
    small = dataclasses.replace(experiment.unet, low_res=False, image_size=(4, 4))
    guide = dataclasses.replace(experiment.classifier, image_size=(4, 4))
    for name, network in {'diffusion': small, 'classifier': guide}.items():
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(network))
        save_training(tmp_path / 'small' / name, network, params)

    def guidance(text):
        sample = {'guidance': text, 'respacing': '5', 'ema_rate': 0.9, 'classifier_ema_rate': 0.0}
        networks = {name: {'folder': name} for name in ('diffusion', 'classifier')}
        write_stamp(tmp_path / 'small' / 'samples', {'sample': sample} | networks)
        changes = {'base__diffusion': tmp_path / 'small', 'base__recipe': ''}
        stamp = base.locate(make_run(tmp_path, **settings(files, **changes))).stamp
        assert stamp['diffusion']['ema_rate'] == 0.9
        return stamp['sample']['guidance']

    texts = ['mixture:7=0.5,8=0.5/interval:low=0.3', 'mixture:7=0.4,8=0.5/interval:low=0.3', 'classifier']
    assert len({guidance(text) for text in texts}) == 3


@pytest.mark.parametrize(
    ('name', 'changes', 'values'),
    [
        ('larger', {}, ['6×4', '4×4']),
        ('seven', {}, ['7', '10']),
        ('colour', {}, ['3', '1']),
        ('up', {}, ['upsampler']),
        ('missing', {}, ['no such file']),
        ('base', {'base__recipe': 'paper'}, ['paper', 'ddim']),
        ('base', {'base__scale': 2.0}, ['classifier']),
        ('base', {'sample__labels': 'missing.npy'}, ['No such file']),
        ('unconditional', {'data__low_res_size': '(2,2)'}, ['(2, 2)', '(4, 4)']),
    ],
)
def test_a_base_model_that_does_not_fit_is_refused(files, tmp_path, name, changes, values):
    with pytest.raises(UserError) as error:
        sample.check(make_run(tmp_path, ('sample',), **settings(files, name, **changes)))
    for value in values:
        assert value in f'{error.value.problem}; {error.value.remedy}', error.value
    assert name != 'missing' or error.value.where.startswith('config.base: ')


def test_both_stages_have_the_same_classes(files, tmp_path):
    experiment = read_experiment(**UPSAMPLER)
    other = tmp_path / 'other.safetensors'
    save(other, experiment.unet, experiment.diffusion, classes=tuple('abcdefghik'))
    with refused('named.safetensors', "'j', not 'k'"):
        changes = {'pretrained__diffusion': other}
        sample.check(make_run(tmp_path, ('sample',), **settings(files, 'named', **changes)))


@pytest.mark.parametrize(
    ('where', 'changes', 'value'),
    [
        ('config.base.diffusion', {'base__diffusion': 'runs/base'}, 'no upsampler'),
        ('config.base.recipe', {'base__recipe': 'ddim'}, 'ddim'),
        ('config.base.scale', {'base__diffusion': 'runs/base', 'base__scale': -1.0}, '-1'),
        ('config.sample.low_res_noise', {'sample__low_res_noise': 0.1}, 'no upsampler'),
        ('config.sample.low_res_noise', UPSAMPLER | {'sample__low_res_noise': 1.0}, '1.0'),
        ('config.train.low_res_noise', {'train__low_res_noise': '0,0.1'}, 'no upsampler'),
        ('config.train.low_res_noise', UPSAMPLER | {'train__low_res_noise': '0.1'}, '0.1'),
        ('config.train.low_res_noise', UPSAMPLER | {'train__low_res_noise': '0.2,0.1'}, '0.2'),
        ('config.train_classifier.low_res_noise', {'train_classifier__low_res_noise': '0,0.1'}, 'classifier'),
        (
            'config.base.diffusion',
            UPSAMPLER | {'base__diffusion': 'runs/base', 'sample__base_samples': 'a.png'},
            'a.png',
        ),
    ],
)
def test_settings_that_are_refused(where, changes, value):
    with refused(where, value):
        read_experiment(**changes)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'mine').mkdir()
    for name in 'abc':
        Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8)).save(tmp_path / 'mine' / f'{name}.png')
    return tmp_path / 'mine'


def test_the_classes_of_pictures_are_those_that_are_requested(pictures, tmp_path):
    def opened(**changes):
        return base.open_base(make_run(**UPSAMPLER | {'sample__base_samples': pictures} | changes))

    images, labels = opened(sample__classes='7,2')
    assert images.take(np.arange(3)).shape == (3, 4, 4, 1)
    np.testing.assert_array_equal(labels, [7, 2, 7])
    np.save(tmp_path / 'labels.npy', [1, 2, 3])
    np.testing.assert_array_equal(opened(sample__labels=tmp_path / 'labels.npy')[1], [1, 2, 3])
    with refused('mine', 'no labels', 'config.sample.classes'):
        opened()
    np.testing.assert_array_equal(opened(unet__class_conditional=False)[1], [0, 0, 0])
    np.savez(tmp_path / 'x.npz', arr_0=np.zeros((2, 4, 4, 1), np.uint8), arr_1=[1, 2])
    with refused('config.sample.base_samples: runs/typo'):
        opened(sample__base_samples='runs/typo')
    with refused('config.sample.classes', 'x.npz have labels'):
        opened(sample__base_samples=tmp_path / 'x.npz', sample__classes='7')


def test_an_unreadable_picture_is_named_before_the_first_is_enlarged(files, pictures, tmp_path):
    (pictures / 'c.png').write_bytes(b'')
    given = {'base__diffusion': '', 'base__recipe': '', 'sample__base_samples': pictures}
    changes = settings(files, **given, sample__classes='4')
    with refused('mine/c.png', 'cannot be read'):
        sample.check(make_run(tmp_path, ('sample',), **changes))
    sample.check(make_run(tmp_path, ('sample',), **changes | {'sample__num_samples': 2}))


def test_enlarging_pictures(files, pictures, tmp_path):
    given = {'base__diffusion': '', 'base__recipe': '', 'sample__base_samples': pictures}
    few = {'sample__num_samples': 3, 'sample__batch_size': 8, 'sample__classes': '4'}
    assert run(tmp_path / 'run', 'sample', **settings(files, **given, **few)) == 0
    found = images_of(tmp_path / 'run' / 'samples')
    assert found.shape == (3, 8, 8, 1)
    changed = settings(files, **given, **few, sample__low_res_noise=0.9)
    assert run(tmp_path / 'run', 'sample', **changed) == 0
    noisy = images_of(tmp_path / 'run' / 'samples' / 'low_res_noise=0.9')
    assert closeness(found, noisy) > 1
    before = base.content_digest(str(pictures))
    (pictures / 'c.png').unlink()
    assert base.content_digest(str(pictures)) != before
