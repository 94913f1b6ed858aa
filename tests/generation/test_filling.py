"""Fewer images than devices: the batch is filled, and what fills it is not returned."""

import jax
import numpy as np
import pytest

from diffusion_jax.generation import load, trajectory
from tests.versions import VERSIONS


@pytest.mark.skipif(jax.device_count() != 8, reason='a filled batch has as many images as rows of pixels')
def test_images_are_not_cut_where_the_batch_is_as_long_as_they_are_high():
    model = load(VERSIONS[-1] / 'run')
    how = {'sampler': 'ddim', 'respacing': 'ddim5'}
    samples = model.sample(3, 1, floats=True, **how)
    assert samples.images.shape == samples.x_0.shape == (3, 8, 8, 1)
    recorded = model.sample(3, 1, record=trajectory, **how)
    assert recorded.images.shape == (3, 8, 8, 1)
    assert recorded.records.x_t.shape == (5, 3, 8, 8, 1) and recorded.records.t.shape == (5,)
    np.testing.assert_array_equal(recorded.images, samples.images)
