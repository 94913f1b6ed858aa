import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import clip, plain
from diffusion_jax.diffusion.guidance import DynamicThreshold, Models
from diffusion_jax.diffusion.process import from_x_0
from tests.diffusion.mixture import vp_levels

SHAPE = (3, 4, 4, 2)
X_0 = np.random.default_rng(0).standard_normal(SHAPE) * np.reshape([0.2, 1.0, 3.0], (3, 1, 1, 1))
X_T = np.random.default_rng(1).standard_normal(SHAPE)
LEVEL = jax.tree.map(lambda a: a[0], vp_levels([2.0]))


def denoise(x_t, level):
    return from_x_0(jnp.asarray(X_0), x_t, level)


def test_large_estimates_are_scaled_by_a_quantile_of_their_image():
    with jax.enable_x64(True):
        found, _ = DynamicThreshold(0.9).wrap(plain(denoise), Models())(jnp.asarray(X_T), LEVEL)
        found = jax.tree.map(np.asarray, found)
    limits = [max(1.0, np.quantile(np.abs(x_0), 0.9)) for x_0 in X_0]
    assert limits[0] == 1 and limits[2] > 2
    expected = np.stack([np.clip(x_0, -s, s) / s for x_0, s in zip(X_0, limits, strict=True)])
    np.testing.assert_allclose(found.x_0, expected, rtol=1e-12)
    np.testing.assert_allclose(LEVEL.alpha * expected + LEVEL.sigma * found.eps, X_T, rtol=1e-12)


def test_clipping_does_nothing_afterwards_and_it_is_no_clipping():
    thresholded = DynamicThreshold(0.9).wrap(plain(denoise), Models())
    clipped = clip(plain(denoise))
    x_t = jnp.asarray(X_T, jnp.float32)
    found = thresholded(x_t, LEVEL)[0].x_0
    np.testing.assert_allclose(clip(thresholded)(x_t, LEVEL)[0].x_0, found, atol=1e-6)
    assert jnp.abs(found - clipped(x_t, LEVEL)[0].x_0).max() > 0.1
    at_most = DynamicThreshold(1.0).wrap(plain(denoise), Models())(x_t, LEVEL)[0].x_0
    np.testing.assert_allclose(at_most[2], X_0[2] / np.abs(X_0[2]).max(), rtol=1e-5)
