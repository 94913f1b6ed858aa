"""Samplers and guidances as texts, and what is said of wrong ones."""

import re

import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import (
    GUIDANCES,
    MODIFIERS,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Function,
    Interval,
    ReconstructionGuidance,
    Reuse,
)
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM, SAMPLERS, Heun
from diffusion_jax.errors import UserError
from diffusion_jax.generation import arguments, options
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.options import read_guidance, read_sampler

CLASSIFIER = ClassifierGuidance()


@pytest.mark.parametrize(
    ('text', 'sampler'),
    [
        ('ddpm', DDPM()),
        ('ddim', DDIM()),
        (' ddim : eta = 0.5 ', DDIM(0.5)),
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


def test_what_is_left_without_a_classifier():
    guidance = read_guidance(
        'classifier_free:scale=2/interval:low=1 + classifier:scale=3 + reconstruction/reuse'
    )
    recipe = Recipe(guidance=guidance)
    assert recipe.without_classifier().guidance == guidance[:1] and recipe.unguided().guidance == ()


def test_what_a_modifier_acts_on_may_be_a_text():
    assert read_guidance(Interval('classifier:scale=2', 1.0)) == (Interval(ClassifierGuidance(2.0), 1.0),)
    with pytest.raises(UserError, match='Interval.low is 5.0; it must be at most high, which is 1.0'):
        read_guidance('classifier/interval:low=5,high=1')
    with pytest.raises(UserError, match='Reuse acts on 2 guidances'):
        read_guidance(Reuse('classifier+classifier'))


def test_scale_and_eta_of_the_settings_are_those_of_what_gives_none():
    both = SampleConfig(sampler='ddim', eta=0.5, guidance='classifier + reconstruction:scale=2', scale=3.0)
    recipe = both.as_recipe()
    assert recipe.sampler == DDIM(0.5)
    assert recipe.guidance == (ClassifierGuidance(3.0), ReconstructionGuidance(2.0))
    assert SampleConfig(sampler='ddim:eta=0.25', eta=0.5).as_recipe().sampler == DDIM(0.25)
    assert SampleConfig(scale=0.0).as_recipe().guidance == ()
    assert not SampleConfig(scale=0.0).guided and not SampleConfig(guidance='').guided


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('hein', f"sampler is 'hein'; it must be one of {', '.join(map(repr, SAMPLERS))}"),
        ('', "sampler is ''; it must be one of"),
        ('ddim:etta=1', "sampler is 'ddim:etta=1'; ddim has no option 'etta', its options are eta"),
        ('ddpm:eta=1', "sampler is 'ddpm:eta=1'; ddpm has no option 'eta', it has no options"),
        ('ddim:eta', "sampler is 'ddim:eta'; eta must be a number, not ''"),
        ('ddim:eta=x', "sampler is 'ddim:eta=x'; eta must be a number, not 'x'"),
        ('ddim:eta=2', "sampler is 'ddim:eta=2': eta is 2.0; it must be at least 0 and at most 1"),
        ('ddim:eta=nan', "sampler is 'ddim:eta=nan': eta is nan; it must be"),
        ('heun:s_churn=-1', 's_churn is -1.0; it must be at least 0'),
        (DDIM, f'sampler is {DDIM!r}; give one of ddpm, ddim'),
        (None, 'sampler is None; give one of ddpm'),
    ],
)
def test_what_is_no_sampler(text, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_sampler(text)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('klassifier', f"guidance is 'klassifier'; it must be one of {', '.join(map(repr, GUIDANCES))}"),
        (
            'classifier:scal=2',
            "guidance is 'classifier:scal=2'; classifier has no option 'scal', its",
        ),
        ('classifier:scale=-1', "guidance is 'classifier:scale=-1': scale is -1.0; it must be at least 0"),
        (
            'classifier:scale=1e99',
            'scale is 1e+99; it must be at least 0 and at most',
        ),
        (
            'classifier/intervl:low=1',
            "guidance is 'classifier/intervl:low=1': what follows / is 'intervl'; it must be one of "
            + ', '.join(map(repr, MODIFIERS)),
        ),
        ('classifier/', "guidance is 'classifier/': what follows / is ''; it must be one of"),
        (
            'classifier/reuse:every=1.5',
            "what follows / is 'reuse:every=1.5'; every must be a whole number, not '1.5'",
        ),
        ('classifier/reuse:every=0', 'every is 0; it must be at least 1'),
        ('interval:low=1', "guidance is 'interval:low=1'; it acts on another, such as classifier/interval"),
        ('classifier_free/reuse', 'ClassifierFreeGuidance with reuse, which acts on guidance by a gradient'),
        (3, 'guidance is 3; give one of classifier'),
        ([3], 'guidance is 3; give one of classifier'),
        (ClassifierGuidance, 'ClassifierGuidance'),
    ],
)
def test_what_is_no_guidance(text, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_guidance(text)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('respacing', 'message'),
    [
        ('karras:x', "respacing is 'karras:x': 'x' must be the number of levels, at least 1"),
        ('karras:0', "respacing is 'karras:0': '0' must be"),
        ('carras:9', "respacing is 'carras:9': 'carras' is not a grid; choose one of karras, log_snr"),
        ('sigma:1,2', "respacing is 'sigma:1,2': every level must be less noisy than the one before it"),
        ('sigma:1,0', "respacing is 'sigma:1,0': the sigmas of this process are from"),
        ('sigma:', "respacing is 'sigma:': '' must be numbers separated by commas"),
        ('t:100,3', "respacing is 't:100,3': timesteps are from 0 to 99"),
        ('x', "respacing is 'x'"),
        (None, 'respacing is None; give a text such as'),
    ],
)
def test_what_is_no_grid(respacing, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        options.check_respacing(DiffusionConfig(schedule='cosine', num_timesteps=100), respacing)
    assert '\n' not in str(error.value)


def test_timesteps_are_fractional_or_the_nearest():
    process = DiffusionConfig(schedule='cosine', num_timesteps=100)
    t = {
        timesteps: options.check_respacing(process, 'log_snr:7', timesteps).level.t
        for timesteps in ('fractional', 'nearest')
    }
    assert (t['nearest'] == np.round(t['nearest'])).all()
    assert (t['fractional'] != np.round(t['fractional'])).any()
    assert np.abs(t['fractional'] - t['nearest']).max() < 1
    with pytest.raises(UserError, match="timesteps is 'rounded'; it must be one of 'fractional', 'nearest'"):
        options.check_respacing(process, '5', 'rounded')


def test_numbers_are_arrays_of_one_type_and_shape():
    part = arguments.traced(Interval(ClassifierGuidance(2), 0, np.float64(5)), 3)
    assert part.guidance.scale.shape == (3,) and part.guidance.scale.dtype == np.float32
    assert part.low.shape == part.high.shape == () and part.high.dtype == np.float32
    assert arguments.traced(Reuse(part), 3).every.dtype == np.int32
    with pytest.raises(UserError, match='DDIM.eta is .*; it must be a number'):
        arguments.traced(DDIM([0.5, 1.0, 0.5]), 3)  # one for all images
