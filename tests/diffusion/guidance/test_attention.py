"""Guidance by a network's own attention, with a denoiser in its place."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.guidance import PAG, SAG, Models
from diffusion_jax.diffusion.guidance.extrapolation import gaussian_blur
from diffusion_jax.diffusion.process import add_noise
from tests.diffusion.guidance.calls import GRID, MIXTURE, START

LEVEL = jax.tree.map(lambda a: a[3], GRID.level)
STRONG, OTHER = MIXTURE.denoiser(), MIXTURE.only(1).denoiser()
RECEIVED = jnp.array([[[0.95, 1.05]], [[1.2, 0.8]]])  # of two columns of pixels


def models():
    def attended(block):
        assert block == 'decoder.1'
        return lambda x_t, level: (STRONG(x_t, level)[0], RECEIVED)

    return Models(perturbed=lambda blocks: OTHER if blocks else STRONG, attended=attended)


def test_pag_extrapolates_from_the_perturbed_model():
    denoise = PAG(3.0, ('middle',)).wrap(STRONG, models())
    prediction, _ = denoise(START, LEVEL, denoise.init(START))
    strong, weak = STRONG(START, LEVEL)[0].x_0, OTHER(START, LEVEL)[0].x_0
    np.testing.assert_allclose(prediction.x_0, weak + 3.0 * (strong - weak), rtol=1e-3, atol=1e-4)


def test_sag_extrapolates_from_the_image_that_is_blurred_where_the_model_looks():
    guidance = SAG(2.0, 0.7, block='decoder.1')
    denoise = guidance.wrap(STRONG, models())
    prediction, _ = denoise(START, LEVEL, denoise.init(START))
    strong = STRONG(START, LEVEL)[0]
    attended = np.array([[False, True], [True, False]])[:, None, :, None]
    x_0 = np.where(attended, gaussian_blur(strong.x_0, 0.7), strong.x_0)
    weak = STRONG(add_noise(x_0, strong.eps, LEVEL), LEVEL)[0]
    np.testing.assert_allclose(prediction.eps, weak.eps + 2 * (strong.eps - weak.eps), rtol=1e-3, atol=1e-4)
    assert np.abs(prediction.eps - strong.eps).max() > 1e-2
    nowhere = SAG(2.0, threshold=2.0, block='decoder.1').wrap(STRONG, models())
    ours, _ = nowhere(START, LEVEL, nowhere.init(START))
    np.testing.assert_allclose(ours.eps, strong.eps, rtol=1e-4, atol=1e-5)


def test_the_blur_is_a_normal_distribution_and_keeps_constants():
    size, std = 33, 2.0
    point = jnp.zeros((1, size, size, 1)).at[0, 16, 16, 0].set(1.0)
    offsets = np.arange(size) - 16
    line = np.exp(-0.5 * (offsets / std) ** 2) * (np.abs(offsets) <= 15)
    line /= line.sum()
    np.testing.assert_allclose(
        gaussian_blur(point, std)[0, :, :, 0], np.outer(line, line), rtol=1e-4, atol=1e-7
    )
    constant = jnp.ones((2, 5, 9, 3))
    np.testing.assert_allclose(gaussian_blur(constant, 3.0), constant, rtol=1e-6)


def test_the_blocks_are_those_that_the_network_must_have():
    assert SAG(block='encoder.2').blocks == ('encoder.2',)
    assert PAG().before_clip and SAG().before_clip
