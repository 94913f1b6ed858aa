import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM
from diffusion_jax.errors import UserError
from diffusion_jax.generation import choose_grid, show, trajectory
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.images import to_uint8
from diffusion_jax.sharding import make_mesh, param_shardings
from tests.errors import refused
from tests.generation.shared import (
    RECIPES,
    STEPS,
    assert_equal,
    closeness,
    make_model,
    quiet_params,
    random_params,
)
from tests.tiny import DIFFUSION, UPSAMPLER


def test_an_image_depends_on_seed_and_index(model):
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
    with pytest.raises(UserError, match='ten'):
        named.sample(2, 'ten', **STEPS)
    with refused('y', 'three'):
        model.sample(2, 'three', **STEPS)


def test_one_class_is_that_of_all_images(model):
    assert_equal(model.sample(4, 7, **STEPS), model.sample(4, 4 * [7], **STEPS))


def test_a_scale_for_every_image(model):
    images = model.sample(4, 3, scale=[0, 0, 50, 50], **STEPS).images
    assert_equal(images[:2], model.sample(4, 3, scale=0, **STEPS).images[:2])
    assert_equal(images[2:], model.sample(4, 3, scale=50, **STEPS).images[2:])
    assert closeness(images[:2], model.unguided().sample(2, **STEPS)) <= 1


def test_a_recipe_by_name_and_its_changes(model):
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
    assert closeness(model.sample(4, 1, recipe='paper-ddim', clip=False), ddim) > 1


def test_a_scale_is_that_of_guidances_whose_text_gives_none(model):
    guidance = {'recipe': 'paper-ddim', 'guidance': 'classifier+classifier:scale=2'}
    request = model.request(1, 3, scale=5.0, **guidance)
    assert [float(each.scale[0]) for each in request.recipe.guidance] == [5, 2]
    request = model.request(1, 3, **guidance)
    assert [float(each.scale[0]) for each in request.recipe.guidance] == [30, 2]
    request = model.request(1, 3, scale=5.0, guidance=['classifier', ClassifierGuidance(7.0)])
    assert [float(each.scale[0]) for each in request.recipe.guidance] == [5, 5]
    for without in ('', 'classifier:scale=2'):
        with refused('scale'):
            model.request(1, 3, scale=5.0, guidance=without)
    with refused('recipe', 'classifier'):
        model.unguided().sample(2, scale=9, **STEPS)
    assert model.unguided().request(1, scale=0).recipe.guidance == ()
    assert model.request(1, 3, recipe=Recipe(respacing='5'), scale=0).recipe.guidance != ()


def test_an_unknown_argument_is_refused(model):
    with refused('steps', 'respacing', 'seed', 'scale', 'recipe', 'guidance'):
        model.sample(2, 3, steps=5)
    with refused('sclae', 'did you mean scale?'):
        model.sample(2, 3, sclae=5)


def test_any_number_of_images_on_eight_devices(model):
    spread = dataclasses.replace(model, mesh=make_mesh(8, 1))
    found = spread.sample(3, [1, 2, 3], record=trajectory, floats=True, **STEPS)
    assert found.images.shape == found.x_0.shape == (3, 8, 8, 1)
    assert found.records.x_t.shape == (5, 3, 8, 8, 1)
    assert closeness(found, model.sample(3, [1, 2, 3], **STEPS)) <= 1


@pytest.mark.parametrize('sizes', [(1, 1), (2, 4)])
def test_the_loop_transfers_nothing_implicitly(model, sizes):
    mesh = make_mesh(*sizes, devices=jax.devices()[: sizes[0] * sizes[1]])
    params = jax.device_put(model.params, param_shardings(mesh, model.params))
    model = dataclasses.replace(model, mesh=mesh, params=params)
    expected = model.sample(4, 3, **STEPS)  # compiles
    with jax.transfer_guard('disallow'):
        assert_equal(model.sample(4, 3, **STEPS), expected)


@pytest.mark.parametrize(('sampler', 'steps'), [('ddim', ''), ('dpmpp_3s', 'log_snr:40')])
def test_inversion_is_undone_by_its_sampler(model, sampler, steps):
    """For a network whose output is small: a random one is not smooth in x_t."""
    process = dataclasses.replace(DIFFUSION, schedule='linear')
    free = dataclasses.replace(model.unguided(), params=quiet_params(), diffusion=process)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    how = {'sampler': sampler, 'respacing': steps, 'clip': False}
    x_T = free.invert(images, **how)
    assert x_T.shape == images.shape and x_T.dtype == np.float32
    back = free.sample(2, x_T=x_T, **how)
    assert closeness(back, images) <= 8
    assert closeness(free.sample(2, **how), images) > 64


def test_only_samplers_of_the_ode_invert(model):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    for sampler in ('ddpm', 'ddim:eta=0.5', 'heun:s_churn=1', 'dpmpp_2m_sde'):
        with refused('sampler', 'random'):
            model.invert(images, sampler=sampler, respacing='ddim5')
    with refused('respacing', 'restart'):
        model.invert(images, respacing='restart:log_snr:6/0.1,2,1,1')


def test_a_chosen_grid_is_a_grid_of_the_model(model):
    text = choose_grid(model, 4, 3, teacher='karras:9', num_images=2)
    sigmas = [float(sigma) for sigma in text.removeprefix('sigma:').split(',')]
    fine = make_grid(model.diffusion, 'karras:9').level.edm_sigma
    assert len(sigmas) == 4
    np.testing.assert_allclose([sigmas[0], sigmas[-1]], fine[[0, -1]], rtol=1e-5)
    assert all(np.isclose(fine, sigma, rtol=1e-5).any() for sigma in sigmas)
    assert model.sample(2, 3, sampler='ipndm', respacing=text).evaluations == 4
    with refused('metric', 'l7'):
        choose_grid(model, 4, 3, metric='l7')
    with refused('levels'):
        choose_grid(model, 10, 3, teacher='karras:9')
    with refused('teacher', 'restarts'):
        choose_grid(model, 4, 3, teacher='restart:karras:9/0.1,2,1,1')


def darkness(x_t, level):
    """Larger for darker images, most of all at low noise."""
    return -level.alpha * jnp.sum((x_t + 1) ** 2, axis=(1, 2, 3))


def test_a_log_probability_of_the_caller_guides_and_compiles_once(model, compilations):
    free = model.unguided()
    dark = free.sample(4, guidance=ClassifierGuidance(0.5, log_prob=darkness), **STEPS)
    assert any('advance' in name for name in compilations)
    compilations.clear()
    off = free.sample(4, guidance=ClassifierGuidance(0.0, log_prob=darkness), **STEPS)
    assert not compilations
    assert closeness(off, free.sample(4, **STEPS)) <= 1
    assert dark.images.mean() < off.images.mean() - 20
    compilations.clear()
    more = free.sample(4, guidance=ClassifierGuidance(log_prob=darkness), scale=1, **STEPS)
    assert more.images.mean() < dark.images.mean() and not compilations


def test_a_log_probability_of_the_caller_adds_to_the_classifier(model):
    def faint(x_t, level):
        return 0.01 * darkness(x_t, level)

    own = ClassifierGuidance(log_prob=faint)
    both = model.sample(4, 3, guidance=('classifier', own), scale=50, **STEPS)
    assert both.images.mean() < model.sample(4, 3, scale=50, **STEPS).images.mean() - 20
    assert closeness(both, model.unguided().sample(4, guidance=own, scale=50, **STEPS)) > 1


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
    if sampler == 'ddpm':  # its last step returns the mean, which is x_0 without guidance
        free = model.unguided().sample(3, record=trajectory, **settings)
        assert closeness(to_uint8(free.records.x_0[-1]), free) <= 1
    else:
        assert show(found) == show(found.images)
        with refused('images', 'Trajectory'):
            show(steps)


def test_a_record_of_the_caller(model):
    def brightness(state, prediction, transition):
        return {'sigma': transition.level.edm_sigma, 'mean': prediction.x_0.mean(axis=(1, 2, 3))}

    found = model.sample(3, 1, record=brightness, **STEPS).records
    assert found['mean'].shape == (5, 3) and (np.diff(found['sigma']) < 0).all()


def test_progress_within_a_batch_and_images_as_floats(model, capfd):
    steps = []
    found = model.sample(2, 3, floats=True, progress=lambda *done: steps.append(done), **STEPS)
    assert steps == [(done, 5) for done in range(6)]
    assert found.x_0.dtype == np.float32
    assert_equal(to_uint8(found.x_0), found.images)
    model.sample(2, 3, **STEPS)
    assert not capfd.readouterr().err
    model.sample(2, 3, progress=True, **STEPS)
    assert '2/2' in capfd.readouterr().err


@pytest.mark.parametrize(
    ('where', 'arguments', 'value'),
    [
        ('num_images', {'num_images': 0}, 0),
        ('y', {'y': None}, None),
        ('y', {'y': [3, 10]}, 10),
        ('y', {'y': -1}, "−1, no class, needs guidance=''"),
        ('y', {'y': 13, 'guidance': ''}, 'from 0 to 9'),
        ('y', {'y': -2, 'guidance': ''}, -2),
        ('y', {'y': [1, 2, 3]}, [1, 2, 3]),
        ('y', {'y': 3.7}, 3.7),
        ('scale', {'scale': [1, 2, 3]}, [1, 2, 3]),
        ('scale', {'scale': [1, np.nan]}, 'nan'),
        ('.scale', {'scale': -1}, -1),
        ('recipe', {'recipe': 'papr'}, 'papr'),
        ('recipe', {'recipe': 3}, 'or a Recipe'),
        ('recipe', {'recipe': np.zeros(3)}, 'or a Recipe'),
        ('recipe', {'recipe': []}, 'or a Recipe'),
        ('sampler', {'sampler': 'euler'}, 'euler'),
        ('eta', {'sampler': DDIM(eta=1.5)}, 1.5),
        ('respacing', {'respacing': '101'}, 101),
        ('clip', {'clip': 'no'}, 'no'),
        ('seed', {'seed': 2**32}, 2**32),
        ('first', {'first': 2**31 - 1}, 2**31 - 1),
        ('x_T', {'x_T': np.full((2, 8, 8, 1), np.inf)}, 'inf'),
        ('x_T', {'x_T': np.zeros((2, 4, 4, 1))}, (2, 4, 4, 1)),
        ('low_res', {'low_res': np.zeros((2, 4, 4, 1), np.uint8)}, ''),
    ],
)
def test_arguments_that_are_refused(model, where, arguments, value):
    with refused(where, value):
        model.sample(**{'num_images': 2, 'y': 3} | STEPS | arguments)


@pytest.mark.parametrize('sampler', ['ddim', 'ddpm'])
def test_samples_that_are_not_finite_are_an_error(model, sampler):
    steep = jax.tree.map(lambda leaf: 10 * leaf, model.params['classifier'])
    model = dataclasses.replace(model, params=model.params | {'classifier': steep})
    with refused('samples', '2 of 4', 'index 5, 7', 'scale', kind=NotFinite):
        model.sample(4, 3, scale=[0, 3e38, 0, 3e38], sampler=sampler, respacing='ddim5', first=4)


def test_results_of_broken_networks_are_an_error(model):
    broken = jax.tree.map(lambda leaf: leaf * 1e30, model.params['diffusion'])
    free = dataclasses.replace(model.unguided(), params={'diffusion': broken})
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with refused('result', 'index 0, 1', kind=NotFinite):
        free.invert(images, respacing='ddim5')
    with refused('result', 'index 8, 9', kind=NotFinite):
        free.bits_per_dimension(images, index=[8, 9], respacing='ddim5')
    with refused('samples', 'weights', kind=NotFinite):
        free.sample(2, record=trajectory, **STEPS)
    for wrong in (np.zeros((2, 8, 8, 1)), np.zeros((2, 9, 8, 1), np.uint8), images[:0], 7):
        with refused('images'):
            free.invert(wrong, respacing='ddim5')
    with refused('respacing', '1'):
        free.invert(images, respacing='1')


def test_an_upsampler_needs_images_to_enlarge():
    model = make_model(UPSAMPLER, {'diffusion': random_params(UPSAMPLER)}, None, (('plain', Recipe()),))
    black, white = np.zeros((2, 4, 4, 1), np.uint8), np.full((2, 4, 4, 1), 255, np.uint8)
    for wrong, value in (
        (None, 'give the images'),
        (black[:1], 'uint8 (1,'),
        (black.astype(np.float32), 'float32'),
    ):
        with refused('low_res', value):
            model.sample(2, low_res=wrong, **STEPS)
    with refused('model', 'upsampler'):
        model.invert(np.zeros((2, 8, 8, 1), np.uint8), respacing='')
    assert closeness(model.sample(2, low_res=black, **STEPS), model.sample(2, low_res=white, **STEPS)) > 1


def test_more_images_than_memory_holds(model):
    def no_memory(done, total):
        raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 118189471424 bytes.')

    with pytest.raises(UserError, match='fewer images'):
        model.sample(2, 3, progress=no_memory, **STEPS)
