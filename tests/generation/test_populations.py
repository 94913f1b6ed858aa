"""Populations of particles in the Generator: checks, padding, weights, and settings of a run."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ReconstructionGuidance, Reward
from diffusion_jax.diffusion.inverse import Gray, Measurement, PiGDM
from diffusion_jax.diffusion.samplers import DDPM, SMC
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.generation.config import SampleConfig, check_sample
from diffusion_jax.generation.populations import check_weights
from diffusion_jax.generation.program import sample_program
from diffusion_jax.sharding import make_mesh
from tests.errors import refused
from tests.generation.shared import closeness

STEPS = {'respacing': '4', 'scale': 3.0}
NOISY = Measurement(Gray(), np.zeros((8, 8, 1)), [0.1, 0.1, 0.2, 0.3])
EXACT = Measurement(Gray(), np.zeros((8, 8, 1)))


def test_a_population_depends_on_the_seed_and_its_first_index(model):
    both = model.sample(6, [3, 3, 3, 5, 5, 5], sampler='smc:particles=3,threshold=0.5', **STEPS)
    second = model.sample(3, 5, first=3, sampler='smc:particles=3,threshold=0.5', **STEPS)
    assert both.evaluations == 4 and both.log_weight.shape == (6,)
    assert closeness(both.images[3:], second) <= 1
    np.testing.assert_allclose(both.log_weight[3:], second.log_weight, rtol=1e-4)


def test_padding_adds_complete_populations(model):
    spread = dataclasses.replace(model, mesh=make_mesh(8, 1))
    padded = spread.sample(6, 3, sampler='smc:particles=3', **STEPS)
    assert spread.request(6, 3, sampler='smc:particles=3', **STEPS).index.tolist() == [
        *range(6),
        *[3, 4, 5] * 6,
    ]
    assert closeness(padded, model.sample(6, 3, sampler='smc:particles=3', **STEPS)) <= 1
    images = np.zeros((6, 8, 8, 1), np.uint8)
    started = spread.sample(6, 3, sampler='smc:particles=3', images=images, start=2.0, **STEPS)
    assert started.log_weight.shape == (6,)
    images[1] = 1
    with refused('images', 3):
        spread.sample(6, 3, sampler='smc:particles=3', images=images, start=2.0, **STEPS)
    with refused('sampler', 'SMC'):
        model.purify(images, 3, sampler='smc:particles=3', guidance='classifier', start=2.0, respacing='4')


def test_records_have_the_genealogy(model):
    def record(state, prediction, transition):
        return state.ancestors, state.ess

    ancestors, ess = model.sample(4, 3, sampler=SMC(2), record=record, **STEPS).records
    assert ancestors.shape == ess.shape == (4, 4)
    assert ancestors.min() >= 0 and ancestors.max() <= 1 and (ess >= 1).all() and (ess <= 2).all()


def test_options_are_read_from_texts(model):
    found = model.request(4, 3, sampler='smc:particles=4,potential=max,every=3,threshold=0.5').recipe.sampler
    assert (found.particles, found.potential, found.resampling) == (4, 'max', 'systematic')
    assert (int(found.every), float(found.threshold)) == (3, 0.5)


def test_other_numbers_compile_nothing(model, compilations):
    before = None
    for scale, options in ((1, ''), (2, ',threshold=0.3'), (3, ',every=2')):
        sampler, guidance = f'smc:particles=2{options}', f'classifier + reward:scale={scale}'
        found = model.sample(4, 3 + scale, sampler=sampler, guidance=guidance, respacing='4')
        if before:
            assert compilations == [] and (found.log_weight != before.log_weight).any()
        compilations.clear()
        before = found


@pytest.mark.parametrize(
    ('where', 'values', 'number', 'y', 'how'),
    [
        ('num_images', (6, 4), 6, 3, {'sampler': 'smc:particles=4'}),
        ('sampler.particles', (1, 2), 4, 3, {'sampler': 'smc:particles=1'}),
        ('sampler.particles', ('many',), 4, 3, {'sampler': 'smc:particles=many'}),
        ('SMC.particles', (1, 2), 4, 3, {'sampler': SMC(1)}),
        ('sampler.potential', ('mean', 'max'), 4, 3, {'sampler': 'smc:potential=mean'}),
        ('SMC.resampling', ('none', 'systematic'), 4, 3, {'sampler': SMC(2, resampling='none')}),
        ('sampler.unweighted', ('1', False, True), 4, 3, {'sampler': 'smc:unweighted=1'}),
        ('Measurement.noise', (0, 'SMC'), 4, 3, {'sampler': 'smc:particles=2', 'guidance': PiGDM(EXACT)}),
        ('y', (2,), 4, [3, 3, 3, 4], {'sampler': 'smc:particles=2'}),
        ('scale', (2,), 4, 3, {'sampler': 'smc:particles=2', 'scale': [1, 1, 2, 3]}),
        ('noise', (2,), 4, 3, {'sampler': 'smc:particles=2', 'guidance': PiGDM(NOISY)}),
        ('guidance', ('DDPM', 'smc'), 4, 3, {'sampler': 'ddpm', 'guidance': 'reward'}),
        ('guidance', ('SMC', 'reward'), 4, 3, {'sampler': SMC(2), 'guidance': lambda denoise: denoise}),
    ],
)
def test_what_cannot_work_is_refused(model, where, values, number, y, how):
    with refused(where, *values):
        model.sample(number, y, respacing='4', **how)


@pytest.mark.parametrize('value', [jnp.nan, -jnp.inf, jnp.inf])
def test_weights_that_are_not_finite_are_refused(model, value):
    def log_prob(x_0, level):
        return jnp.full(len(x_0), value)

    with refused('log_weight', '2 of 2', '0 to 1', kind=NotFinite):
        model.sample(4, 3, sampler=SMC(2), respacing='4', guidance=Reward(1.0, log_prob))


@pytest.mark.parametrize('rows', [[np.nan, 0], [np.nan, np.inf], [-np.inf, -np.inf]])
def test_the_population_with_weights_that_are_not_finite_is_named(rows):
    with refused('log_weight', '1 of 2', '12 to 13', kind=NotFinite):
        check_weights(np.array([0, -np.inf, *rows]), 2, np.arange(10, 14))
    check_weights(np.array([0, -np.inf, 1, 2]), 2, np.arange(10, 14))


def test_some_particles_may_be_impossible(model):
    def log_prob(x_0, level):
        possible = jnp.arange(len(x_0)) % 2 == 0
        return jnp.where((level.sigma == 0) & ~possible, -jnp.inf, 0.0)

    guidance = ReconstructionGuidance(1.0, log_prob)
    found = model.sample(4, 3, sampler=SMC(2), respacing='4', guidance=guidance)
    np.testing.assert_array_equal(np.isneginf(found.log_weight), [False, True] * 2)


def test_settings_of_a_run():
    config = SampleConfig(sampler='smc:particles=4', num_samples=8, batch_size=4)
    check_sample(config, 10)
    recipe = config.as_recipe()
    assert recipe.sampler == SMC(4, unweighted=True)
    assert recipe.unguided().sampler == DDPM()
    for setting in ({'num_samples': 6}, {'batch_size': 6}):
        with refused(next(iter(setting)), 6, 4):
            check_sample(dataclasses.replace(config, **setting), 10)


def test_a_plan_may_try_any_batch(model):
    recipe = SampleConfig(sampler='smc:particles=4', respacing='4').as_recipe()
    for batch_size in (2, 8):
        program = sample_program(model.networks, recipe, model.mesh, batch_size)
        assert program.arguments[1].index.shape == (batch_size,)
