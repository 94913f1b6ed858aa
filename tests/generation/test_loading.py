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
from diffusion_jax.generation import Generator, load, loading
from diffusion_jax.generation.loading import check_guide
from diffusion_jax.models import ClassifierConfig, describe_network, param_shapes
from diffusion_jax.sharding import make_mesh
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import init_state
from diffusion_jax.weights import foreign, known
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.weights.published import Published, Released
from diffusion_jax.weights.reference import to_reference
from diffusion_jax.workdir import read_stamp, write_stamp
from tests.errors import refused
from tests.generation.shared import STEPS, assert_equal, closeness, params, random_params
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, SAMPLE, TRAIN, TRUNK, UNET, UPSAMPLER

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
    with refused('run', 'diffusion/'):
        load(run, run, mesh=mesh())


def test_what_is_no_network_is_named(run, tmp_path):
    shutil.rmtree(run / 'classifier' / 'checkpoints' / '0')
    for path, named in (
        (tmp_path / 'nowhere', 'nowhere'),
        (run / 'samples', 'stamp.json'),
        (run / 'classifier', 'checkpoints'),
    ):
        with pytest.raises(UserError, match=named):
            load(path)


def test_a_classifier_of_other_classes_is_refused(run):
    shutil.rmtree(run / 'classifier')
    shutil.rmtree(run / 'diffusion')
    seven = ClassifierConfig(**TRUNK, num_classes=7, pool='attention')
    for name, network in (('classifier', seven), ('diffusion', CONDITIONAL_UNET)):
        save_training(run / name, network, zeros(network))
    with refused('classifier', 'num_classes', 7, 10):
        load(run)


def test_a_classifier_of_other_classes_does_not_guide():
    names = tuple('abcdefghij')
    model = Spec(CONDITIONAL_UNET, DIFFUSION, classes=names)
    check_guide(Spec(CLASSIFIER, DIFFUSION, classes=names), model, 'guide')
    check_guide(Spec(CLASSIFIER, DIFFUSION), model, 'guide')  # of an older version
    other = Spec(CLASSIFIER, DIFFUSION, classes=names[::-1])
    with pytest.raises(UserError, match="guide: .*'j'.*'a'"):
        check_guide(other, model, 'guide')
    check_guide(other, Spec(UNET, DIFFUSION, classes=names), 'guide')  # it knows no classes itself


def test_a_run_that_was_guided_from_elsewhere_says_what_is_missing(run, caplog):
    caplog.set_level('WARNING')
    load(run, mesh=mesh())
    assert not caplog.messages
    shutil.rmtree(run / 'classifier')
    assert load(run, mesh=mesh()).classifier is None
    assert 'guided by a classifier' in caplog.text


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    process = dataclasses.replace(DIFFUSION, schedule='linear')
    stored = {
        'diffusion': (UNET, params()['diffusion'], DIFFUSION),
        'classifier': (CLASSIFIER, params()['classifier'], DIFFUSION),
        'other': (dataclasses.replace(CLASSIFIER, num_classes=3), None, DIFFUSION),
        'of_other_levels': (CLASSIFIER, None, process),
        'conditional': (CONDITIONAL_UNET, None, DIFFUSION),
    }
    for name, (network, tree, process) in stored.items():
        tree = jax.tree.map(np.asarray, tree) if tree else zeros(network)
        save_weights(folder / f'{name}.safetensors', Spec(network, process), tree)
    return {name: folder / f'{name}.safetensors' for name in stored}


def zeros(network):
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), param_shapes(network))


def test_load_gives_the_model_that_was_saved(model, files):
    loaded = load(files['diffusion'], files['classifier'], mesh=mesh())
    assert [name for name, _ in loaded.recipes] == ['default', 'ddim']
    assert_equal(loaded.sample(4, 5, **STEPS), model.sample(4, 5, scale=1, **STEPS))
    half = load(files['diffusion'], dtype='bfloat16', mesh=mesh())
    assert closeness(half.sample(4, **STEPS), model.unguided().sample(4, **STEPS)) > 0
    with refused('dtype', 'float16'):
        load(files['diffusion'], dtype='float16')


@pytest.mark.parametrize(
    ('names', 'value'),
    [
        (('classifier',), 'second'),
        (('diffusion', 'diffusion'), 'first'),
        (('conditional', 'other'), 'num_classes is 3'),
        (('diffusion', 'of_other_levels'), 'schedule is linear'),
    ],
)
def test_files_that_do_not_fit(files, names, value):
    with refused(f'{names[-1]}.safetensors', value):
        load(*(files[name] for name in names))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A .pt file of the tiny network, which is a published model with a recipe of its own."""
    recipes = (
        Published('theirs', Recipe(DDIM(), (ClassifierGuidance(3.0),), 'ddim5'), 'FID 9.99', 'FID 11.11'),
        Published('other', Recipe(DDPM(), (), '5')),
    )
    for module in (known, foreign, loading):
        monkeypatch.setattr(module, 'MODELS', {'tiny': Released(UNET, DIFFUSION, published=recipes)})
    state = to_reference(UNET, params()['diffusion'])
    monkeypatch.setattr(foreign, 'read_state', lambda path: state)
    foreign._describe.cache_clear()
    (tmp_path / 'tiny.pt').touch()
    return tmp_path / 'tiny.pt'


def test_a_published_file_is_opened_as_it_is(published, files):
    model = load(published, mesh=mesh())
    jax.tree.map(np.testing.assert_array_equal, model.params['diffusion'], params()['diffusion'])
    assert dict(model.recipes)['theirs'] == Recipe(DDIM(), (), 'ddim5')
    assert model.marks == (('theirs', 'FID 11.11'), ('other', 'not measured'))
    assert 'theirs: FID 11.11' in repr(model)
    guided = load(published, files['classifier'], mesh=mesh())
    assert guided.recipes[0] == ('theirs', Recipe(DDIM(), (ClassifierGuidance(3.0),), 'ddim5'))
    assert guided.marks[0] == ('theirs', 'FID 9.99')


def test_an_upsampler_knows_the_size_that_it_enlarges(tmp_path):
    save_training(tmp_path, UPSAMPLER, random_params(UPSAMPLER))
    assert load(tmp_path).low_res_size is None  # of an older version
    write_stamp(tmp_path, read_stamp(tmp_path) | {'data': {'low_res_size': [4, 4]}})
    assert load(tmp_path).low_res_size == (4, 4)
