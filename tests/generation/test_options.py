"""Samplers, guidances and grids as texts."""

import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import (
    GUIDANCES,
    MODIFIERS,
    PAG,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Function,
    Interval,
    ReconstructionGuidance,
    Reuse,
    Reward,
    Scheduled,
)
from diffusion_jax.diffusion.inverse import DDNM, Mask, Measurement, PiGDM
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import (
    DDIM,
    DDPM,
    SAMPLERS,
    SMC,
    TFG,
    DPMSolverPP2MSDE,
    DPMSolverPP3MSDE,
    Heun,
)
from diffusion_jax.generation import arguments, options
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.options import read_guidance, read_sampler
from tests.errors import refused

CLASSIFIER = ClassifierGuidance()
PIGDM = PiGDM(Measurement(Mask(np.ones((8, 8, 1))), np.ones((8, 8, 1))))


@pytest.mark.parametrize(
    ('text', 'sampler'),
    [
        ('ddpm', DDPM()),
        ('ddim', DDIM()),
        (' ddim : eta = 0.5 ', DDIM(0.5)),
        ('dpmpp_2m_sde', DPMSolverPP2MSDE(1.0)),
        ('dpmpp_3m_sde:eta=0.5', DPMSolverPP3MSDE(eta=0.5)),
        ('heun:s_churn=40,s_min=0.05,s_max=50,s_noise=1.003', Heun(40.0, 0.05, 50.0, 1.003)),
    ],
)
def test_samplers(text, sampler):
    assert read_sampler(text) == read_sampler(sampler) == sampler


@pytest.mark.parametrize(
    ('text', 'guidance'),
    [
        ('', ()),
        ('classifier', (CLASSIFIER,)),
        ('classifier:scale=1e+3', (ClassifierGuidance(1000.0),)),
        ('reconstruction:scale=2', (ReconstructionGuidance(2.0),)),
        ('classifier/reuse:every=3', (Reuse(CLASSIFIER, 3),)),
        (
            'classifier_free:scale=1.5 + classifier:scale=2/interval:low=0.2,high=5/reuse',
            (ClassifierFreeGuidance(1.5), Reuse(Interval(ClassifierGuidance(2.0), 0.2, 5.0))),
        ),
    ],
)
def test_guidances(text, guidance):
    assert read_guidance(text) == read_guidance(guidance) == guidance


def test_several_guidances_in_python():
    def own(denoise):
        return denoise

    found = read_guidance(['classifier', own, Interval(CLASSIFIER, 1.0)])
    assert found == (CLASSIFIER, Function(own), Interval(CLASSIFIER, 1.0))


def test_guidances_without_a_classifier():
    guidance = read_guidance(
        'classifier_free:scale=2/interval:low=1 + classifier:scale=3 + reconstruction/reuse'
    )
    recipe = Recipe(guidance=guidance)
    assert recipe.without_classifier().guidance == guidance[:1] and recipe.unguided().guidance == ()


def test_without_a_classifier_no_particles_are_left_that_nothing_weighs():
    sampler, reward = SMC(2), Reward(1.0, lambda x_0, level: x_0[:, 0, 0, 0])
    recipe = Recipe(sampler, (ClassifierGuidance(2.0), reward))
    assert recipe.without_classifier() == Recipe(sampler, (reward,))
    assert Recipe(sampler, (CLASSIFIER,)).without_classifier() == Recipe()


def test_unguided_training_free_guidance_has_no_log_probability():
    recipe = Recipe(TFG(rho=2.0, log_prob=len, draws=3))
    assert recipe.unguided().sampler == TFG(rho=2.0, draws=3)


@pytest.mark.parametrize(
    'text', ['tfg:draws=2,inner=0,rho=2.0', 'smc:potential=max,unweighted=True,every=3', 'ddim']
)
def test_the_text_of_a_sampler(text):
    assert options.text_of(read_sampler(text), SAMPLERS) == text


@pytest.mark.parametrize(
    'text', ['pag:blocks=middle encoder.14,scale=2.0', 'sag:block=encoder.1,blur=2.0', 'ascent:steps=3']
)
def test_the_text_of_a_guidance(text):
    assert options.text_of(*read_guidance(text), GUIDANCES) == text


def test_blocks_are_a_tuple_of_texts():
    with refused('PAG.blocks', 'middle'):
        arguments.traced(PAG(2.0, 'middle'), 1)


def test_what_a_modifier_acts_on_may_be_a_text():
    assert read_guidance(Interval('classifier:scale=2', 1.0)) == (Interval(ClassifierGuidance(2.0), 1.0),)
    with refused('guidance.low', 5, 1):
        read_guidance('classifier/interval:low=5,high=1')
    with refused('guidance', 'Reuse', 2):
        read_guidance(Reuse('classifier+classifier'))


def test_scale_and_eta_of_the_settings_are_those_of_what_gives_none():
    both = SampleConfig(sampler='ddim', eta=0.5, guidance='classifier + reconstruction:scale=2', scale=3.0)
    recipe = both.as_recipe()
    assert recipe.sampler == DDIM(0.5)
    assert recipe.guidance == (ClassifierGuidance(3.0), ReconstructionGuidance(2.0))
    assert SampleConfig(sampler='ddim:eta=0.25', eta=0.5).as_recipe().sampler == DDIM(0.25)
    assert SampleConfig(sampler='dpmpp_2m_sde').as_recipe().sampler == DPMSolverPP2MSDE(1.0)
    assert SampleConfig(sampler='dpmpp_2m_sde', eta=0.5).as_recipe().sampler == DPMSolverPP2MSDE(0.5)
    assert SampleConfig(scale=0.0).as_recipe().guidance == ()
    assert not SampleConfig(scale=0.0).guided and not SampleConfig(guidance='').guided


@pytest.mark.parametrize(
    ('text', 'where', 'values'),
    [
        ('hein', 'sampler', ['hein', *SAMPLERS]),
        ('', 'sampler', []),
        ('ddim:eta=0.5,eta=0.2', 'sampler', ['give eta once']),
        ('ddim:', 'sampler', ['ddim:']),
        ('ddim: , ', 'sampler', ['ddim:']),
        ('ddim:etta=1', 'sampler', ['etta', 'eta']),
        ('ddpm:eta=1', 'sampler', ['eta', 'no options']),
        ('ddim:eta', 'sampler.eta', []),
        ('ddim:eta=x', 'sampler.eta', ['x']),
        ('ddim:eta=2', 'sampler.eta', [2, 1]),
        ('ddim:eta=nan', 'sampler.eta', ['nan']),
        ('heun:s_churn=-1', 'sampler.s_churn', [-1, 0]),
        (DDIM, 'sampler', ['DDIM()']),
        (None, 'sampler', [None]),
        (PIGDM, 'sampler', ['a PiGDM, which is a guidance: give it as guidance=;']),
        (PIGDM.measurement, 'sampler', ['got Measurement;', 'DPS(measurement)']),
        (np.zeros((8, 8)), 'sampler', ['float64 (8, 8)']),
    ],
)
def test_samplers_that_are_refused(text, where, values):
    with refused(where, *values):
        read_sampler(text)


@pytest.mark.parametrize(
    ('text', 'where', 'values'),
    [
        ('klassifier', 'guidance', ['klassifier', *GUIDANCES]),
        ('classifier:scal=2', 'guidance', ['scal', 'scale']),
        ('classifier:scale=-1', 'guidance.scale', [-1, 0]),
        ('classifier:scale=1e99', 'guidance.scale', ['1e+99']),
        ('classifier/intervl:low=1', 'guidance', ['intervl', *MODIFIERS]),
        ('classifier/', 'guidance', [*MODIFIERS]),
        ('classifier/reuse:every=1.5', 'guidance.every', [1.5, 'integer']),
        ('classifier/reuse:every=0', 'guidance.every', [0, 1]),
        ('interval:low=1', 'guidance', ['classifier/interval:low=1']),
        ('rescale:phi=0.5', 'guidance', ['classifier/rescale:phi=0.5']),
        ('classifier:', 'guidance', ['classifier:']),
        ('classifier:,', 'guidance', ['classifier:,']),
        ('icg/rescale:', 'guidance', ['rescale:']),
        ('classifier_free/reuse', 'guidance', ['Reuse', 'ClassifierFreeGuidance']),
        ('classifier/rescale', 'guidance', ['Rescale', 'ClassifierGuidance']),
        ('classifier/apg', 'guidance', ['APG', 'ClassifierGuidance']),
        ('classifier_free/ramp/apg', 'guidance', ['APG', 'Ramp']),
        ('classifier_free/interval/apg', 'guidance', ['APG', 'Interval']),
        ('reward/reuse', 'guidance', ['Reuse', 'Reward']),
        ('monte_carlo:draws=0', 'guidance.draws', [0, 1]),
        ('ascent:steps=x', 'guidance.steps', ['x', 'integer']),
        ('classifier:scale=2 +', 'guidance', ['classifier:scale=2 +']),
        ('+', 'guidance', ['+']),
        ('mixture:scale=2', 'guidance', ['mixture:scale=2']),
        ('classifier:scale=3,scale=3', 'guidance', ['give scale once']),
        ('mixture:7=0.5,7=0.2', 'guidance', ['give 7 once']),
        ('mixture:7=x', 'guidance.7', ['x']),
        (Scheduled(Function(abs), float), 'guidance', ['Scheduled', 'Function']),
        (3, 'guidance', [3, *GUIDANCES]),
        ([3], 'guidance', [3]),
        (ClassifierGuidance, 'guidance', [ClassifierGuidance]),
        (DDNM(PIGDM.measurement), 'guidance', ['a DDNM, which is a sampler: give it as sampler=;']),
        (PIGDM.measurement, 'guidance', ['got Measurement;']),
        (PIGDM.measurement.operator, 'guidance', ['got Mask;']),
    ],
)
def test_guidances_that_are_refused(text, where, values):
    with refused(where, *values):
        read_guidance(text)


@pytest.mark.parametrize(
    ('respacing', 'values'),
    [
        ('karras:x', ['x']),
        ('karras:0', [0, 1]),
        ('carras:9', ['carras', 'karras', 'log_snr']),
        ('sigma:1,2', []),
        ('sigma:1,0', []),
        ('sigma:', []),
        ('t:100,3', [0, 99]),
        ('restart:karras:5/1', ['low,high,steps,times']),
        ('restart:karras:5/1,2', ['low,high,steps,times']),
        ('x', []),
        (None, []),
    ],
)
def test_grids_that_are_refused(respacing, values):
    with refused('respacing', respacing, *values):
        options.check_respacing(DiffusionConfig(schedule='cosine', num_timesteps=100), respacing)


def test_timesteps_are_fractional_or_the_nearest():
    process = DiffusionConfig(schedule='cosine', num_timesteps=100)
    t = {
        timesteps: options.check_respacing(process, 'log_snr:7', timesteps).level.t
        for timesteps in ('fractional', 'nearest')
    }
    assert (t['nearest'] == np.round(t['nearest'])).all()
    assert (t['fractional'] != np.round(t['fractional'])).any()
    assert np.abs(t['fractional'] - t['nearest']).max() < 1
    with refused('timesteps', 'rounded', 'fractional'):
        options.check_respacing(process, '5', 'rounded')
