"""Sampling that starts from noised images (SDEdit)."""

import numpy as np
import pytest

from diffusion_jax.generation import options, trajectory
from tests.errors import refused
from tests.generation.shared import STEPS, closeness, make_model, quiet_params
from tests.tiny import DIFFUSION

SIGMAS = options.check_respacing(DIFFUSION, 'ddim5').level.edm_sigma
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope='module')
def model():
    return make_model(tree=quiet_params(), classifier=None).unguided()


def sample(model, start, **how):
    return model.sample(3, images=IMAGES, start=start, **STEPS | how)


def test_little_noise_gives_images_near_those_given(model):
    told = []
    found = sample(model, SIGMAS[-1], progress=lambda done, total: told.append((done, total)))
    assert found.evaluations == 1 and told == [(0, 1), (1, 1)]
    assert 0 < closeness(found, IMAGES) < 255 * 4 * SIGMAS[-1] / 2
    assert closeness(sample(model, SIGMAS[-1], seed=1), found) > 0


def test_it_starts_at_the_first_level_that_is_not_noisier(model):
    for done, sigma in enumerate(SIGMAS):
        assert sample(model, 1.001 * sigma).evaluations == 5 - done
    assert closeness(sample(model, SIGMAS[1]), sample(model, (SIGMAS[0] + SIGMAS[1]) / 2)) == 0


def test_above_the_noisiest_level_no_step_is_skipped(model):
    found = sample(model, 1e6, record=trajectory)
    assert found.evaluations == 5 and found.records.x_t.shape == (5, 3, 8, 8, 1)
    assert closeness(sample(model, 1e6), found) <= 1


@pytest.mark.parametrize(
    ('where', 'arguments'),
    [
        ('start', {'start': SIGMAS[-1] / 2}),
        ('start', {'start': -1}),
        ('start', {'start': np.nan}),
        ('start', {'start': 'low'}),
        ('images', {'start': None}),
        ('images', {'images': None}),
        ('images', {'images': IMAGES / 255}),
        ('images', {'images': IMAGES[:2]}),
        ('x_T', {'x_T': np.zeros((3, 8, 8, 1))}),
        ('record', {'record': trajectory}),
    ],
)
def test_arguments_that_are_refused(model, where, arguments):
    with refused(where):
        model.sample(**{'num_images': 3, 'images': IMAGES, 'start': SIGMAS[2]} | STEPS | arguments)
