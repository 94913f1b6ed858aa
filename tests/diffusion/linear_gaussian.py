"""Gaussian data with a linear measurement, for which all of the posterior is known.

x_0 ~ N(mean, covariance), y = A·x_0 + N(0, s_y²), images [B, 1, 1, d].
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import Denoiser, plain
from diffusion_jax.diffusion.process import from_x_0


class LinearGaussian(NamedTuple):
    """float64, [d], [d, d], [k, d], [k], []."""

    mean: np.ndarray
    covariance: np.ndarray
    A: np.ndarray
    y: np.ndarray
    s_y: float

    def as_images(self, x):
        """[..., d] → [..., 1, 1, d]."""
        return x.reshape(*x.shape[:-1], 1, 1, x.shape[-1])

    def predict(self, x_t, level):
        variances, axes = np.linalg.eigh(self.covariance)
        gain = level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
        return from_x_0(self.mean + (x_t - level.alpha * self.mean) @ axes * gain @ axes.T, x_t, level)

    def denoiser(self, **fields) -> Denoiser:
        return plain(self.predict, **fields)

    def likelihood(self, x_0, level):
        """log p(y|x_0), [B], up to a constant."""
        return -0.5 * jnp.sum((self.y - x_0 @ self.A.T) ** 2, axis=(1, 2, 3)) / self.s_y**2

    def posterior(self):
        """Mean and covariance of x_0 given y."""
        precision = np.linalg.inv(self.covariance) + self.A.T @ self.A / self.s_y**2
        covariance = np.linalg.inv(precision)
        mean = np.linalg.solve(self.covariance, self.mean) + self.A.T @ self.y / self.s_y**2
        return covariance @ mean, covariance
