import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.errors import UserError
from diffusion_jax.generation import Generator, Samples, load, running, show, trajectory
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.images import to_uint8
from diffusion_jax.models import ClassifierConfig, UNetConfig, param_shapes
from diffusion_jax.sharding import make_mesh
from diffusion_jax.weights.files import Spec, save_weights
from tests.generation.test_sampling import params
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, TRUNK, UNET

STEPS = {'sampler': 'ddim', 'respacing': 'ddim5'}


RECIPES = (
    ('paper', Recipe(DDPM(), (ClassifierGuidance(3.0),), '5')),
    ('paper-ddim', Recipe(DDIM(), (ClassifierGuidance(30.0),), 'ddim5')),
)


def make_model(unet=UNET, tree=None, classifier=CLASSIFIER, recipes=RECIPES):
    mesh = make_mesh(1, 1, jax.devices()[:1])
    return Generator(unet, DIFFUSION, tree or params(), mesh, classifier, recipes)


@pytest.fixture(scope='module')
def model():
    return make_model()


def images(found):
    return found.images if isinstance(found, Samples) else found


def closeness(a, b):
    """Grey levels; truncation turns rounding into a whole one."""
    return np.abs(np.asarray(images(a), int) - np.asarray(images(b), int)).max()


def assert_equal(a, b):
    np.testing.assert_array_equal(images(a), images(b))


def test_an_image_rests_on_seed_and_index(model):
    found = model.sample(4, [0, 1, 2, 3], **STEPS)
    images = found.images
    assert images.shape == (4, 8, 8, 1) and images.dtype == np.uint8
    assert (found.x_0, found.records, found.log_weight, found.evaluations) == (None, None, None, 5)
    assert closeness(model.sample(2, [2, 3], first=2, **STEPS), images[2:]) <= 1
    assert closeness(model.sample(4, [0, 1, 2, 3], seed=1, **STEPS), images) > 1


def test_classes_by_name(model):
    named = dataclasses.replace(
        model, classes=tuple('zero one two three four five six seven eight nine'.split())
    )
    by_number = model.sample(2, [3, 7], **STEPS)
    assert_equal(named.sample(2, ['three', 'Seven'], **STEPS), by_number)
    assert_equal(named.sample(2, ('three', 7), **STEPS), by_number)
    with pytest.raises(UserError, match="'ten' is no class; the classes are zero, one"):
        named.sample(2, 'ten', **STEPS)
    with pytest.raises(UserError, match="y is 'three'; the names .* are not known"):
        model.sample(2, 'three', **STEPS)


def test_one_class_serves_all_images(model):
    assert_equal(model.sample(4, 7, **STEPS), model.sample(4, 4 * [7], **STEPS))


def test_a_scale_for_every_image(model):
    images = model.sample(4, 3, scale=[0, 0, 50, 50], **STEPS).images
    assert_equal(images[:2], model.sample(4, 3, scale=0, **STEPS).images[:2])
    assert_equal(images[2:], model.sample(4, 3, scale=50, **STEPS).images[2:])
    assert closeness(images[:2], model.unguided().sample(2, **STEPS)) <= 1


def test_a_recipe_by_name_and_what_a_call_changes_of_it(model):
    ddpm = model.sample(4, 1)
    assert_equal(ddpm, model.sample(4, 1, recipe='paper'))
    assert_equal(ddpm, model.sample(4, 1, recipe=RECIPES[0][1]))
    ddim = model.sample(4, 1, recipe='paper-ddim')
    assert closeness(ddim, ddpm) > 1
    assert_equal(ddim, model.sample(4, 1, sampler='ddim', respacing='ddim5', scale=30))
    assert_equal(ddim, model.sample(4, 1, recipe=Recipe('ddim', 'classifier:scale=30', 'ddim5')))
    noisy = model.sample(4, 1, recipe='paper-ddim', sampler='ddim:eta=0.5')
    assert closeness(noisy, ddim) > 1
    assert_equal(noisy, model.sample(4, 1, recipe='paper-ddim', sampler=DDIM(eta=0.5)))


def test_any_number_of_images_on_eight_devices(model):
    spread = dataclasses.replace(model, mesh=make_mesh(8, 1))
    found = spread.sample(3, [1, 2, 3], record=trajectory, floats=True, **STEPS)
    assert found.images.shape == found.x_0.shape == (3, 8, 8, 1)
    assert found.records.x_t.shape == (5, 3, 8, 8, 1)
    assert closeness(found, model.sample(3, [1, 2, 3], **STEPS)) <= 1


def test_inversion_is_undone_by_ddim(model):
    """Where the network says little: what it says is not smooth in x_t, since nobody trained it."""
    tree = params()['diffusion']
    quiet = tree | {'conv_out': jax.tree.map(lambda leaf: 1e-3 * leaf, tree['conv_out'])}
    process = dataclasses.replace(DIFFUSION, schedule='linear')
    free = dataclasses.replace(model.unguided(), params={'diffusion': quiet}, diffusion=process)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    x_T = free.invert(images, respacing='', clip=False)
    assert x_T.shape == images.shape and x_T.dtype == np.float32
    back = free.sample(2, sampler='ddim', respacing='', clip=False, x_T=x_T)
    assert closeness(back, images) <= 8
    assert closeness(free.sample(2, sampler='ddim', respacing='', clip=False), images) > 64


def darkness(x_t, level):
    """Grows towards black images, most of all where there is little noise."""
    return -level.alpha * jnp.sum((x_t + 1) ** 2, axis=(1, 2, 3))


def test_an_own_log_probability_guides_without_a_classifier_and_compiles_once(model, compilations):
    free = model.unguided()
    dark = free.sample(4, guidance=ClassifierGuidance(0.5, log_prob=darkness), **STEPS)
    assert any('continue' in name for name in compilations)
    compilations.clear()
    off = free.sample(4, guidance=ClassifierGuidance(0.0, log_prob=darkness), **STEPS)
    assert not compilations
    assert closeness(off, free.sample(4, **STEPS)) <= 1
    assert dark.images.mean() < off.images.mean() - 20
    compilations.clear()
    more = free.sample(4, guidance=ClassifierGuidance(log_prob=darkness), scale=1, **STEPS)
    assert more.images.mean() < dark.images.mean() and not compilations


def test_an_own_log_probability_adds_to_the_classifier(model):
    def faint(x_t, level):
        return 0.01 * darkness(x_t, level)

    own = ClassifierGuidance(log_prob=faint)
    both = model.sample(4, 3, guidance=('classifier', own), scale=50, **STEPS)
    assert both.images.mean() < model.sample(4, 3, scale=50, **STEPS).images.mean() - 20
    assert closeness(both, model.unguided().sample(4, guidance=own, scale=50, **STEPS)) > 1


def test_a_trajectory_to_what_is_not_finite_is_an_error(model):
    broken = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf * np.nan, model.params))
    with pytest.raises(UserError, match='not finite'):
        broken.sample(2, 3, record=trajectory, **STEPS)


@pytest.mark.parametrize('sampler', ['ddpm', 'ddim'])
def test_a_trajectory_leads_to_the_images(model, sampler):
    settings = {'sampler': sampler, 'respacing': 'ddim5'}
    found = model.sample(3, [1, 2, 3], record=trajectory, **settings)
    steps = found.records
    assert steps.x_t.shape == steps.x_0.shape == (5, 3, 8, 8, 1)
    assert steps.x_t.dtype == steps.x_0.dtype == np.float32 and found.images.dtype == np.uint8
    assert list(steps.t) == [80, 60, 40, 20, 0]
    assert closeness(found, model.sample(3, [1, 2, 3], **settings)) <= 1
    assert np.abs(steps.x_0).max() <= 1
    again = model.sample(3, [1, 2, 3], x_T=steps.x_t[0], **settings)
    assert closeness(again, found) <= 1
    if sampler == 'ddpm':  # its last step returns the mean, which is x_0, moved by guidance alone
        free = model.unguided().sample(3, record=trajectory, **settings)
        assert closeness(to_uint8(free.records.x_0[-1]), free) <= 1


def test_an_own_record(model):
    def brightness(state, prediction, transition):
        return {'sigma': transition.level.edm_sigma, 'mean': prediction.x_0.mean(axis=(1, 2, 3))}

    found = model.sample(3, 1, record=brightness, **STEPS).records
    assert found['mean'].shape == (5, 3) and (np.diff(found['sigma']) < 0).all()


def test_images_as_floats(model):
    found = model.sample(2, 3, floats=True, **STEPS)
    assert found.x_0.dtype == np.float32
    assert_equal(to_uint8(found.x_0), found.images)


def test_progress_within_a_batch(model, capfd):
    told = []
    model.sample(2, 3, progress=lambda done, total: told.append((done, total)), **STEPS)
    assert told == [(done, 5) for done in range(6)]
    model.sample(2, 3, progress=True, **STEPS)
    assert 'sampling 100%  2/2' in capfd.readouterr().err


@pytest.mark.parametrize(
    ('log_prob', 'message'),
    [
        (3, 'log_prob is 3'),
        (lambda x_t, level: x_t, 'it must return floats'),
        (lambda x_t, level: (x_t, x_t), 'it must return floats'),
        (lambda x_t: x_t.sum(), r'log_prob .*takes 1 positional argument'),
        (lambda x_t, level: level.signal, r"log_prob .*no attribute 'signal'"),
    ],
)
def test_what_is_no_log_probability(model, log_prob, message):
    with pytest.raises(UserError, match=message) as error:
        model.sample(2, 3, guidance=ClassifierGuidance(log_prob=log_prob), **STEPS)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({}, 'y is None; give a class from 0 to 9'),
        ({'y': [3, 10]}, 'give a class from 0 to 9'),
        ({'y': [1, 2, 3]}, 'y is .*; give one number, or one for each of the 2 images'),
        ({'y': 3.7}, 'y is 3.7; give one number'),
        ({'y': 'three'}, "y is 'three'; the names of the classes"),
        ({'y': 3, 'scale': [1, 2, 3]}, 'scale is .* for each of the 2 images'),
        ({'y': 3, 'scale': 'much'}, "scale is 'much'; give one number"),
        ({'y': 3, 'recipe': 'papr'}, "recipe is 'papr'; it must be one of 'paper', 'paper-ddim'"),
        ({'y': 3, 'recipe': 3}, 'recipe is 3; give a Recipe, or one of paper, paper-ddim'),
        ({'y': 3, 'sampler': 'euler'}, "sampler is 'euler'"),
        ({'y': 3, 'respacing': '101'}, "respacing is '101'"),
        ({'y': 3, 'respacing': 25}, 'respacing is 25; give a text such as'),
        ({'y': 3, 'seed': -1}, 'seed is -1'),
        ({'y': 3, 'seed': 2**32}, 'seed is 4294967296'),
        ({'y': 3, 'seed': 1.5}, 'seed is 1.5; it must be a whole number'),
        ({'y': 3.0}, 'y is 3.0; give one number'),
        ({'y': 2**32 + 3}, 'y is 4294967299; give one number'),
        ({'y': 3, 'first': -1}, 'first is -1'),
        ({'y': 3, 'first': 2**31 - 1}, 'first is 2147483647; .* below 2147483647'),
        ({'y': 3, 'sampler': DDIM(eta=1.5)}, 'eta is 1.5; .* at most 1'),
        ({'y': 3, 'sampler': DDIM(eta=np.nan)}, 'eta is nan'),
        ({'y': 3, 'sampler': DDIM}, 'sampler is .*; give one of ddpm, ddim'),
        ({'y': 3, 'sampler': 3}, 'sampler is 3; give one of ddpm, ddim'),
        ({'y': 3, 'eta': 0.5}, "no argument 'eta'; there are first, seed, recipe, sampler, "),
        ({'y': 3, 'scale': -1}, 'scale is -1.*; it must be at least 0'),
        ({'y': 3, 'scale': [1, np.nan]}, 'scale is .*nan.*; give one number'),
        ({'y': 3, 'scale': 1e39}, r'scale is 1e\+39; give one number'),
        ({'y': 3, 'x_T': np.full((2, 8, 8, 1), np.inf)}, r'x_T is inf at \[0, 0, 0, 0\]'),
        ({'y': 3, 'num_images': 2.0}, 'num_images is 2.0'),
        ({'y': 3, 'x_T': np.zeros((2, 4, 4, 1))}, r'x_T is float64 \(2, 4, 4, 1\); it must be float32'),
        ({'y': 3, 'low_res': np.zeros((2, 4, 4, 1), np.uint8)}, 'low_res is of no use here'),
    ],
)
def test_arguments_that_cannot_be(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.sample(**{'num_images': 2} | STEPS | arguments)


@pytest.mark.parametrize('sampler', ['ddim', 'ddpm'])
def test_samples_that_are_not_finite_are_an_error_and_no_images(model, sampler):
    steps = {'sampler': sampler, 'respacing': 'ddim5', 'first': 4}
    steep = jax.tree.map(lambda leaf: 10 * leaf, model.params['classifier'])
    model = dataclasses.replace(model, params=model.params | {'classifier': steep})
    with pytest.raises(NotFinite, match=r'2 of 4 images \(index 5, 7\) .*scale 3e\+38.*; lower scale'):
        model.sample(4, 3, scale=[0, 3e38, 0, 3e38], **steps)


def test_what_a_network_makes_of_images_must_be_finite(model):
    broken = jax.tree.map(lambda leaf: leaf * 1e30, model.params['diffusion'])
    free = dataclasses.replace(model.unguided(), params={'diffusion': broken})
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(NotFinite, match=r'2 of 2 images \(index 0, 1\)'):
        free.invert(images, respacing='ddim5')
    with pytest.raises(NotFinite, match=r'2 of 2 images \(index 8, 9\)'):
        free.bits_per_dimension(images, index=[8, 9], respacing='ddim5')


def test_a_scale_needs_a_classifier(model):
    with pytest.raises(UserError, match='guided by a classifier, and there is none; .* leave out scale'):
        model.unguided().sample(2, scale=9, **STEPS)
    model.unguided().sample(2, scale=0, **STEPS)


@pytest.mark.parametrize(
    'images',
    [
        np.zeros((2, 8, 8, 1)),
        np.zeros((2, 9, 8, 1), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
        np.full((2, 8, 8, 1), 256, np.uint16),
        7,
    ],
)
def test_what_is_no_image_of_the_model_is_not_inverted(model, images):
    with pytest.raises(UserError, match='images is .*; it must be (uint8|an array)'):
        model.unguided().invert(images, respacing='')


def test_an_upsampler_needs_what_it_enlarges():
    config = UNetConfig(**TRUNK, out_channels=2, low_res=True)
    shapes = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), param_shapes(config))
    model = make_model(config, {'diffusion': shapes}, None, (('plain', Recipe()),))
    with pytest.raises(UserError, match='low_res is missing'):
        model.sample(2, **STEPS)
    for wrong in (np.zeros((1, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 1), np.float32)):
        with pytest.raises(UserError, match=r'low_res is .*; it must be uint8 \(2, 4, 4, 1\)'):
            model.sample(2, low_res=wrong, **STEPS)
    with pytest.raises(UserError, match='an upsampler is not inverted'):
        model.invert(np.zeros((2, 8, 8, 1), np.uint8), respacing='')
    black, white = np.zeros((2, 4, 4, 1), np.uint8), np.full((2, 4, 4, 1), 255, np.uint8)
    assert closeness(model.sample(2, low_res=black, **STEPS), model.sample(2, low_res=white, **STEPS)) > 1


def test_a_model_in_a_notebook_is_one_line(model):
    assert repr(model) == 'Generator(8×8×1, with a classifier; recipes: paper, paper-ddim)'
    named = dataclasses.replace(model.unguided(), classes=('cat', 'flower'))
    expected = 'Generator(8×8×1, no classifier, 2 classes: cat, flower; recipes: paper, paper-ddim)'
    assert repr(named) == expected


@pytest.mark.parametrize(
    'images', [np.zeros((3, 8, 8, 3)), np.full((3, 8, 8, 3), 256), np.zeros((8, 8, 3), np.uint8)]
)
def test_show_takes_uint8_images_only(images):
    with pytest.raises(UserError, match='images is .*; it must be uint8'):
        show(images)


def test_show_takes_samples_and_says_that_a_trajectory_is_no_array(model):
    found = model.sample(2, 1, record=trajectory, **STEPS)
    assert show(found) == show(found.images)
    with pytest.raises(UserError, match=r'images is Trajectory.*; it must be an array'):
        show(found.records)


def test_show_is_a_picture_of_all_images():
    picture = show(np.zeros((3, 8, 8, 3), np.uint8), columns=8)
    assert picture.mode == 'RGB' and picture.width > 3 * 8


@pytest.fixture
def files(tmp_path):
    def save(name, network, tree, diffusion=DIFFUSION):
        path = tmp_path / f'{name}.safetensors'
        save_weights(path, Spec(network, diffusion), jax.tree.map(np.asarray, tree))
        return path

    return {
        'diffusion': save('diffusion', UNET, params()['diffusion'], DIFFUSION),
        'classifier': save('classifier', CLASSIFIER, params()['classifier']),
        'other': save('other', ClassifierConfig(**TRUNK, num_classes=3), _zeros(CLASSIFIER, 3)),
        'of_other_levels': save('levels', CLASSIFIER, _zeros(CLASSIFIER), DiffusionConfig()),
        'conditional': save('conditional', CONDITIONAL_UNET, _zeros(CONDITIONAL_UNET), DIFFUSION),
    }


def _zeros(config, num_classes=None):
    if num_classes:
        config = dataclasses.replace(config, num_classes=num_classes)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(config))


def test_load_gives_the_model_that_was_saved(model, files):
    loaded = load(files['diffusion'], files['classifier'], mesh=make_mesh(1, 1, jax.devices()[:1]))
    assert [name for name, _ in loaded.recipes] == ['default', 'ddim']
    assert_equal(loaded.sample(4, 5, **STEPS), model.sample(4, 5, scale=1, **STEPS))
    half = load(files['diffusion'], dtype='bfloat16')
    assert closeness(half.sample(4, **STEPS), model.unguided().sample(4, **STEPS)) > 0
    with pytest.raises(UserError, match="dtype is 'float16'"):
        load(files['diffusion'], dtype='float16')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('classifier',), 'holds a classifier; give it as the second argument'),
        (('diffusion', 'diffusion'), 'holds no classifier; give it as the first argument'),
        (('conditional', 'other'), 'num_classes is 3; that of the diffusion model is 10'),
        (('diffusion', 'of_other_levels'), 'schedule is linear; that of the diffusion model is cosine'),
    ],
)
def test_files_that_do_not_fit(files, arguments, message):
    with pytest.raises(UserError, match=message):
        load(*(files[name] for name in arguments))


def test_more_images_than_memory_holds(model, monkeypatch):
    def no_memory(*_):
        raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 118189471424 bytes.')

    monkeypatch.setattr(running, 'run', no_memory)
    with pytest.raises(UserError) as error:
        model.sample(2, 3, **STEPS)
    assert (error.value.where, error.value.problem) == ('sampling', 'out of memory (118,189,471,424 bytes)')
