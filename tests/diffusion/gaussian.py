"""Gaussian data, for which the exact denoiser and the exact noisy classifier are known and affine.

Pixels are independent: x_0 ~ N(mean, variance), y|x_0 ~ N(x_0, likelihood_variance).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.process import align, predict


class Data(NamedTuple):
    mean: float = 0.0
    variance: float = 1.0
    y: float = 1.0
    likelihood_variance: float = 0.5

    def marginal(self, signal, noise):
        """Mean and variance of x_t."""
        return signal * self.mean, signal**2 * self.variance + noise**2

    def denoise(self, x_t, transition):
        """E[eps|x_t]."""
        signal, noise = align((transition.level.signal, transition.level.noise), x_t)
        mean, variance = self.marginal(signal, noise)
        return predict(noise * (x_t - mean) / variance, x_t, transition, 'eps')

    def log_prob(self, level):
        """log p(y|x_t) at the level that a table has at t; the table holds every timestep."""

        def log_prob(x_t, t):
            rows = jnp.round(t).astype(int)
            signal, noise = align((level.signal[rows], level.noise[rows]), x_t)
            mean, variance = self.marginal(signal, noise)
            x_0 = self.mean + signal * self.variance * (x_t - mean) / variance
            spread = self.variance * noise**2 / variance + self.likelihood_variance
            return jnp.sum(-((self.y - x_0) ** 2) / (2 * spread), axis=(1, 2, 3))

        return log_prob

    def given_y(self):
        """Mean and variance of x_0 given y."""
        gain = self.variance / (self.variance + self.likelihood_variance)
        return self.mean + gain * (self.y - self.mean), (1 - gain) * self.variance


def sampled_moments(step, table):
    """Mean and variance, float64, of what an affine step makes of x_T ~ N(0, 1).

    The step x_{t-1} = a·x_t + b·noise + c is read off at three points, for all rows of the table at once.
    """
    zero = jnp.zeros((len(table.level.t), 1, 1, 1))
    constant = step(zero, table, zero)
    slope, sigma = step(zero + 1, table, zero) - constant, step(zero, table, zero + 1) - constant
    rows = np.stack([np.ravel(v).astype(np.float64) for v in (slope, sigma, constant)], axis=1)
    mean, variance = 0.0, 1.0
    for a, b, c in rows[::-1]:
        mean, variance = a * mean + c, a**2 * variance + b**2
    return mean, variance
