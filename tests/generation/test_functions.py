"""Functions of the caller that cannot work are refused before a program is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import (
    Adam,
    AscentGuidance,
    ClassifierGuidance,
    Interval,
    MonteCarloGuidance,
    Normalized,
    ReconstructionGuidance,
)
from diffusion_jax.diffusion.samplers import TFG
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import NotFinite
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
    'MonteCarloGuidance': lambda f: {'guidance': Adam(MonteCarloGuidance(1.0, 1.0, f))},
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
    found = free.sample(2, **STEPS, **PARTS[name](likelihood), floats=True)
    assert np.isfinite(found.x_0).all()


def test_what_cannot_be_differentiated_is_refused(free):
    def search(x, level):
        return jax.lax.while_loop(lambda v: jnp.all(v < 3), lambda v: v + 1, jnp.sum(x, axis=(1, 2, 3)))

    with refused('log_prob', 'ValueError'):
        free.request(2, guidance=ReconstructionGuidance(1.0, search))


@pytest.mark.parametrize(
    ('function', 'values'),
    [
        (lambda denoise: None, ['NoneType']),
        (
            lambda denoise: denoise._replace(call=lambda x, level, memory: denoise(x, level)[0]),
            ['Prediction'],
        ),
        (lambda denoise: denoise._replace(call=lambda x, level, memory: (x, memory)), ['tuple']),
        (
            lambda denoise: denoise._replace(
                call=lambda x, level, memory: denoise(np.asarray(x), level, memory)
            ),
            ['TracerArrayConversionError'],
        ),
    ],
)
def test_a_guidance_that_cannot_work(free, function, values):
    with refused('guidance', *values):
        free.request(2, guidance=function)


def test_the_line_is_one_line(free):
    with pytest.raises(UserError) as caught:
        free.request(2, guidance=ReconstructionGuidance(1.0, WRONG['numpy'][0]))
    assert len(str(caught.value).splitlines()) == 1


def test_a_log_prob_that_is_not_finite_is_named_as_a_cause(free, model):
    def logarithm(x_0, level):
        return jnp.sum(jnp.log(x_0 - 5), axis=(1, 2, 3))

    with refused('samples', 'ReconstructionGuidance', 'log_prob', kind=NotFinite):
        free.sample(2, guidance=ReconstructionGuidance(1.0, logarithm), **STEPS)
    with refused('samples', 'lower scale', kind=NotFinite):
        model.sample(2, 3, scale=3e38, **STEPS)


@pytest.mark.parametrize('modifier', ['adam', 'normalized', 'reuse'])
@pytest.mark.parametrize('guidance', ['ascent', 'classifier_free'])
def test_modifiers_of_gradients_need_one(model, modifier, guidance):
    with refused('guidance', 'gradient'):
        model.request(2, 3, guidance=f'{guidance}/{modifier}')


@pytest.mark.parametrize(
    'text',
    [
        'classifier:scale=1/adam:strength=0.1,beta1=0.5,beta2=0.8',
        'classifier/normalized:strength=0.5/interval:low=0.1',
        'monte_carlo:scale=2,spread=0.5',
        'ascent:scale=0.1',
        'reconstruction/adam:strength=0.05',
    ],
)
def test_they_are_known_by_their_texts(model, text):
    how = STEPS | {'sampler': 'tfg'} if text.startswith('reconstruction') else STEPS
    guided, plain = (model.sample(2, 3, guidance=each, **how).images for each in (text, ''))
    assert np.abs(guided.astype(int) - plain).max() > 1


def test_its_numbers_compile_nothing(model, compilations):
    model.sample(2, 3, guidance=Adam('classifier', 0.1), **STEPS)
    model.sample(2, 3, guidance=Normalized('classifier', 0.1), **STEPS)
    compilations.clear()
    model.sample(2, 3, guidance=Adam('classifier', [0.2, 0.3], 0.5, 0.8), **STEPS)
    model.sample(2, 3, guidance=Normalized('classifier', 0.7), **STEPS)
    assert compilations == []
