"""Functions of the caller that cannot work are refused before a program is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import (
    Adam,
    AscentGuidance,
    CalibratedGuidance,
    ClassifierGuidance,
    EntropyGuidance,
    Interval,
    MixtureGuidance,
    MonteCarloGuidance,
    Normalized,
    ReconstructionGuidance,
)
from diffusion_jax.diffusion.samplers import TFG
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import NotFinite
from diffusion_jax.generation.options import read_guidance
from tests.errors import refused
from tests.generation.shared import STEPS

STEPS = {'respacing': STEPS['respacing']}


def likelihood(x_0, level):
    return -jnp.sum((x_0 - 0.3) ** 2, axis=(1, 2, 3))


@pytest.fixture(scope='module')
def free(model):
    return model.unguided()


WRONG = {
    'a sum over the batch': (lambda x, level: jnp.sum(x), ['()', '[B]']),
    'per pixel': (lambda x, level: x, ['(2, 8, 8, 1)']),
    'an integer': (lambda x, level: jnp.argmax(x.reshape(2, -1), axis=1), ['int32']),
    'nothing': (lambda x, level: None, ['NoneType']),
    'numpy': (lambda x, level: np.square(np.asarray(x)).sum((1, 2, 3)), ['TracerArrayConversionError']),
    'a branch': (lambda x, level: likelihood(x, level) if level.sigma > 1 else x[:, 0, 0, 0], ['Tracer']),
    'a mistake': (lambda x, level: x.summ(), ['summ']),
    'one argument': (lambda x: likelihood(x, None), ['TypeError']),
}
PARTS = {
    'ReconstructionGuidance': lambda f: {'guidance': ReconstructionGuidance(1.0, f)},
    'ClassifierGuidance': lambda f: {'guidance': Interval(ClassifierGuidance(1.0, f), 0.1)},
    'MonteCarloGuidance': lambda f: {'guidance': Adam(MonteCarloGuidance(1.0, f))},
    'AscentGuidance': lambda f: {'guidance': AscentGuidance(1.0, f)},
    'TFG': lambda f: {'sampler': TFG(log_prob=f)},
}


@pytest.mark.parametrize('kind', WRONG)
def test_a_log_prob_that_cannot_work(free, kind):
    function, values = WRONG[kind]
    with refused('ReconstructionGuidance.log_prob', *values):
        free.request(2, guidance=ReconstructionGuidance(1.0, function))


@pytest.mark.parametrize('name', PARTS)
def test_every_part_with_a_log_prob_is_checked(free, name):
    with refused(f'{name}.log_prob', '()', '[B]'):
        free.request(2, **PARTS[name](lambda x, level: jnp.sum(x)))
    free.request(2, **PARTS[name](likelihood))


@pytest.mark.parametrize('part', [EntropyGuidance, MixtureGuidance, CalibratedGuidance])
def test_logits_are_checked(free, part):
    def guidance(logits):
        return part([1.0, 0.0], logits=logits) if part is MixtureGuidance else part(logits=logits)

    with refused(f'{part.__name__}.logits', '(2,)', '[B, K]'):
        free.request(2, 1, guidance=guidance(likelihood))
    free.request(2, 1, guidance=guidance(lambda x, level: x[:, 0, :2, 0]))


def test_what_cannot_be_differentiated_is_refused(free):
    def search(x, level):
        return jax.lax.while_loop(lambda v: jnp.all(v < 3), lambda v: v + 1, jnp.sum(x, axis=(1, 2, 3)))

    with refused('log_prob', 'ValueError'):
        free.request(2, guidance=ReconstructionGuidance(1.0, search))


@pytest.mark.parametrize(
    ('function', 'values'),
    [
        (lambda denoise: None, ['NoneType']),
        (likelihood, ['level', 'ReconstructionGuidance']),
        (lambda denoise: changed(denoise, lambda x, level: denoise(x, level)[0]), ['Prediction']),
        (lambda denoise: changed(denoise, lambda x, level: (x, ())), ['tuple']),
        (lambda denoise: changed(denoise, lambda x, level: denoise(np.asarray(x), level)), ['Tracer']),
    ],
)
def test_a_guidance_that_cannot_work(free, function, values):
    with refused('guidance', *values):
        free.request(2, guidance=function)


def changed(denoise, function):
    return denoise._replace(call=lambda x, level, memory: function(x, level))


def test_the_line_is_one_line(free):
    with pytest.raises(UserError) as caught:
        free.request(2, guidance=ReconstructionGuidance(1.0, WRONG['numpy'][0]))
    assert len(str(caught.value).splitlines()) == 1


def test_a_log_prob_that_is_not_finite_is_named_as_a_cause(free):
    def root(x_0, level):
        return jnp.sum(jnp.sqrt(x_0 - 5), axis=(1, 2, 3))

    with refused('samples', 'ReconstructionGuidance', 'log_prob', kind=NotFinite):
        free.sample(2, guidance=ReconstructionGuidance(1.0, root), **STEPS)


@pytest.mark.parametrize('modifier', ['adam', 'normalized', 'reuse'])
@pytest.mark.parametrize('guidance', ['ascent', 'classifier_free'])
def test_modifiers_of_gradients_need_one(model, modifier, guidance):
    with refused('guidance', 'gradient'):
        model.request(2, 3, guidance=f'{guidance}/{modifier}')


TEXTS = {
    'classifier/adam:strength=0.1,beta1=0.5,beta2=0.8': Adam(ClassifierGuidance(), 0.1, 0.5, 0.8),
    'classifier/normalized:strength=0.5': Normalized(ClassifierGuidance(), 0.5),
    'monte_carlo:scale=2,spread=0.5': MonteCarloGuidance(2.0, spread=0.5),
    'ascent:scale=0.1': AscentGuidance(0.1),
}


def test_they_are_known_by_their_texts_and_other_numbers_compile_nothing(model, compilations):
    for text, guidance in TEXTS.items():
        assert read_guidance(text) == (guidance,)
    how = STEPS | {'sampler': 'tfg:eta=0.5', 'floats': True}
    plain = model.sample(2, 3, guidance='', **how).x_0
    first = model.sample(2, 3, guidance=' + '.join(TEXTS), **how).x_0
    compilations.clear()
    other = ' + '.join(TEXTS).replace('0.5', '0.6').replace('scale=2', 'scale=3')
    second = model.sample(2, 3, guidance=other, **how).x_0
    assert compilations == []
    assert np.abs(first - plain).max() > 1e-3 and np.abs(second - first).max() > 1e-3
