"""Files of weights, folders of training and runs, opened from Python."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.errors import UserError
from diffusion_jax.generation import Generator, load
from diffusion_jax.generation.loading import check_guide
from diffusion_jax.models import ClassifierConfig, describe_network, param_shapes
from diffusion_jax.sharding import make_mesh
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import init_state
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.workdir import write_stamp
from tests.generation.test_sampling import params
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, SAMPLE, TRAIN, TRUNK, UNET

AVERAGES = {'0.9': 0.5, '0.99': 2.0}  # of the parameters: what they are multiplied by


def save_training(folder, network, tree):
    """A folder of training with one checkpoint, whose averages differ from the parameters."""
    state = init_state(tree, TRAIN, DIFFUSION.num_timesteps, jax.random.key(0))
    ema = {rate: jax.tree.map(lambda leaf, f=f: f * leaf, tree) for rate, f in AVERAGES.items()}
    with Checkpoints(folder / 'checkpoints') as checkpoints:
        checkpoints.save(state._replace(ema=ema), {}, describe_network(network))
    process = dataclasses.asdict(DIFFUSION)
    write_stamp(folder, {'diffusion': process, 'train': {'ema_rates': [float(rate) for rate in AVERAGES]}})


def save_run(folder):
    """A run without samples."""
    save_training(folder / 'diffusion', UNET, params()['diffusion'])
    save_training(folder / 'classifier', CLASSIFIER, params()['classifier'])


@pytest.fixture(scope='module')
def sampled(tmp_path_factory):
    """A run whose samples were made by DDIM at scale 2, with the average 0.9 of the diffusion model."""
    folder = tmp_path_factory.mktemp('sampled') / 'run'
    save_run(folder)
    sample = dataclasses.asdict(dataclasses.replace(SAMPLE, ema_rate=0.9, eta=0.5, clip=False))
    networks = {name: {'folder': name, 'step': 0} for name in ('diffusion', 'classifier')}
    write_stamp(folder / 'samples', {'sample': sample} | networks)
    return folder


@pytest.fixture
def run(sampled, tmp_path):
    return shutil.copytree(sampled, tmp_path / 'run')


def mesh():
    return make_mesh(1, 1, jax.devices()[:1])


def factor(model, name='diffusion'):
    """How the loaded parameters differ from those that were trained."""
    loaded, trained = (jax.tree.leaves(tree[name])[0] for tree in (model.params, params()))
    return float(np.mean(np.asarray(loaded) / np.asarray(trained)))


def test_a_run_is_sampled_as_it_was_by_the_program(sampled):
    model = load(sampled, mesh=mesh())
    recipe = Recipe(DDIM(0.5), (ClassifierGuidance(2.0),), 'ddim5', clip=False)
    assert model.recipes == (('run', recipe),)
    assert factor(model) == pytest.approx(0.5) and factor(model, 'classifier') == pytest.approx(1.0)
    averaged = {**params(), 'diffusion': jax.tree.map(lambda leaf: 0.5 * leaf, params()['diffusion'])}
    same = Generator(UNET, DIFFUSION, averaged, mesh(), CLASSIFIER)
    settings = {'sampler': 'ddim:eta=0.5', 'respacing': 'ddim5', 'scale': 2.0, 'clip': False}
    np.testing.assert_array_equal(model.sample(2, 3).images, same.sample(2, 3, **settings).images)


def test_a_folder_of_training_has_the_recipe_of_its_run(sampled):
    model = load(sampled / 'diffusion', mesh=mesh())
    assert model.classifier is None and factor(model) == pytest.approx(0.5)
    assert model.recipes == (('run', Recipe(DDIM(0.5), (), 'ddim5', clip=False)),)
    guided = load(sampled / 'diffusion', sampled, mesh=mesh())  # the run's classifier
    assert guided.classifier == CLASSIFIER
    assert dict(guided.recipes)['run'].guidance == (ClassifierGuidance(2.0),)


def test_a_run_in_the_home_of_the_user(sampled, monkeypatch):
    monkeypatch.setenv('HOME', str(sampled.parent))
    assert load('~/run', mesh=mesh()).classifier == CLASSIFIER


def test_a_run_without_samples_has_defaults_that_its_process_allows(run):
    shutil.rmtree(run / 'samples')
    model = load(run, mesh=mesh())
    assert model.recipes == (
        ('default', Recipe(DDPM(), (ClassifierGuidance(),), '')),  # of 100 steps not 250
        ('ddim', Recipe(DDIM(), (ClassifierGuidance(),), 'ddim25')),
    )
    assert factor(model) == pytest.approx(2.0)  # the average of the highest rate


def test_a_run_without_a_classifier_is_unguided_and_a_file_guides_it(run):
    path = run / 'classifier.safetensors'
    save_weights(path, Spec(CLASSIFIER, DIFFUSION), jax.tree.map(np.asarray, params()['classifier']))
    shutil.rmtree(run / 'classifier')
    assert load(run, mesh=mesh()).classifier is None
    assert load(run, path, mesh=mesh()).classifier == CLASSIFIER
    with pytest.raises(UserError, match='is a run without classifier/ .it holds .*diffusion/'):
        load(run, run, mesh=mesh())


def test_what_is_no_network_is_named_with_what_is_there(run, tmp_path):
    with pytest.raises(UserError, match='no such file or folder'):
        load(tmp_path / 'nowhere')
    with pytest.raises(UserError, match=r'samples: is no folder of training \(it holds stamp.json\)'):
        load(run / 'samples')
    shutil.rmtree(run / 'diffusion' / 'checkpoints' / '0')
    with pytest.raises(UserError, match='diffusion/checkpoints: no checkpoint yet'):
        load(run)


def test_a_classifier_of_other_classes_is_refused(run):
    shutil.rmtree(run / 'classifier')
    shutil.rmtree(run / 'diffusion')
    seven = ClassifierConfig(**TRUNK, num_classes=7, pool='attention')
    for name, network in (('classifier', seven), ('diffusion', CONDITIONAL_UNET)):
        tree = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), param_shapes(network))
        save_training(run / name, network, tree)
    with pytest.raises(UserError, match='classifier: num_classes is 7; that of the diffusion model is 10'):
        load(run)


def test_a_classifier_of_other_classes_does_not_guide():
    names = tuple('abcdefghij')
    model = Spec(CONDITIONAL_UNET, DIFFUSION, classes=names)
    check_guide(Spec(CLASSIFIER, DIFFUSION, classes=names), model, 'guide')
    check_guide(Spec(CLASSIFIER, DIFFUSION), model, 'guide')  # of an older version
    other = Spec(CLASSIFIER, DIFFUSION, classes=names[::-1])
    with pytest.raises(UserError, match="guide: .* class 0 is 'j', not 'a'"):
        check_guide(other, model, 'guide')
    check_guide(other, Spec(UNET, DIFFUSION, classes=names), 'guide')  # it knows no classes itself


def test_a_run_that_was_guided_from_elsewhere_says_what_is_missing(run, caplog):
    caplog.set_level('WARNING')
    load(run, mesh=mesh())
    assert not caplog.messages
    shutil.rmtree(run / 'classifier')
    assert load(run, mesh=mesh()).classifier is None
    assert 'guided by a classifier' in caplog.text
