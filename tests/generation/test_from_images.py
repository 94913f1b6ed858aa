"""Sampling that begins with noised images (SDEdit)."""

import jax
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.generation import options, trajectory
from tests.generation.test_generator import closeness, make_model
from tests.generation.test_sampling import params
from tests.tiny import DIFFUSION

STEPS = {'sampler': 'ddim', 'respacing': 'ddim5'}
SIGMAS = options.check_respacing(DIFFUSION, 'ddim5').level.edm_sigma
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope='module')
def model():
    """Unguided, of a network that says little."""
    tree = params()['diffusion']
    quiet = tree | {'conv_out': jax.tree.map(lambda leaf: 1e-3 * leaf, tree['conv_out'])}
    return make_model(tree={'diffusion': quiet}, classifier=None).unguided()


def sample(model, start, **how):
    return model.sample(3, images=IMAGES, start=start, **STEPS | how)


def test_little_noise_gives_images_near_those_given(model):
    told = []
    found = sample(model, SIGMAS[-1], progress=lambda done, total: told.append((done, total)))
    assert found.evaluations == 1 and told == [(0, 1), (1, 1)]
    assert 0 < closeness(found, IMAGES) < 255 * 4 * SIGMAS[-1] / 2
    assert closeness(sample(model, SIGMAS[-1], seed=1), found) > 0


def test_it_begins_at_the_first_level_that_is_not_noisier(model):
    for done, sigma in enumerate(SIGMAS):
        assert sample(model, 1.001 * sigma).evaluations == 5 - done
    assert closeness(sample(model, SIGMAS[1]), sample(model, (SIGMAS[0] + SIGMAS[1]) / 2)) == 0


def test_above_the_noisiest_level_nothing_is_left_out(model):
    found = sample(model, 1e6, record=trajectory)
    assert found.evaluations == 5 and found.records.x_t.shape == (5, 3, 8, 8, 1)
    assert closeness(sample(model, 1e6), found) <= 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'start': SIGMAS[-1] / 2}, 'start is .*; the lowest σ of these steps is'),
        ({'start': -1}, 'start is -1'),
        ({'start': np.nan}, 'start is nan'),
        ({'start': 'low'}, "start is 'low'; it must be a number"),
        ({'start': None}, 'images and start must be given together'),
        ({'images': None}, 'images and start must be given together'),
        ({'images': IMAGES / 255}, 'images is float64 .*; it must be uint8'),
        ({'images': IMAGES[:2]}, r'images is uint8 \(2, 8, 8, 1\); it must be uint8 \(3, 8, 8, 1\)'),
        ({'x_T': np.zeros((3, 8, 8, 1))}, 'give either x_T, or images and start'),
        ({'record': trajectory}, 'record keeps the steps of a whole sampling; leave out images'),
    ],
)
def test_arguments_that_cannot_be(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.sample(**{'num_images': 3, 'images': IMAGES, 'start': SIGMAS[2]} | STEPS | arguments)
