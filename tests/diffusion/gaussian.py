"""Gaussian data, for which the exact denoiser and the exact noisy classifier are known and affine.

Pixels are independent: x_0 ~ N(mean, variance), y|x_0 ~ N(x_0, likelihood_variance).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import Denoiser, plain
from diffusion_jax.diffusion.process import align, from_eps
from diffusion_jax.diffusion.samplers import sample


class Data(NamedTuple):
    mean: float = 0.0
    variance: float = 1.0
    y: float = 1.0
    likelihood_variance: float = 0.5

    def marginal(self, alpha, sigma):
        """Mean and variance of x_t."""
        return alpha * self.mean, alpha**2 * self.variance + sigma**2

    def predict(self, x_t, level):
        """E[x_0|x_t] and E[eps|x_t]."""
        alpha, sigma = align((level.alpha, level.sigma), x_t)
        mean, variance = self.marginal(alpha, sigma)
        return from_eps(sigma * (x_t - mean) / variance, x_t, level)

    def denoiser(self, **fields: Any) -> Denoiser:
        """The exact denoiser; `fields` are those of a Denoiser, such as variance='fixed_large'."""
        return plain(self.predict, **fields)

    def log_prob(self, x_t, level):
        """log p(y|x_t), [B], up to a constant."""
        alpha, sigma = align((level.alpha, level.sigma), x_t)
        mean, variance = self.marginal(alpha, sigma)
        x_0 = self.mean + alpha * self.variance * (x_t - mean) / variance
        spread = self.variance * sigma**2 / variance + self.likelihood_variance
        return jnp.sum(-((self.y - x_0) ** 2) / (2 * spread), axis=(1, 2, 3))

    def given_y(self):
        """Mean and variance of x_0 given y."""
        gain = self.variance / (self.variance + self.likelihood_variance)
        return self.mean + gain * (self.y - self.mean), (1 - gain) * self.variance


def loop_moments(sampler, denoise, grid):
    """Mean and variance of what `sample` makes of x_T ~ N(0, 1) on any grid: x_0 is affine in all draws.

    Every step draws at most once.
    """
    num_draws = len(grid.level.t) + 1

    def x_0(tape):
        state, _ = sample(sampler, denoise, grid, lambda position, i: tape[position], tape[0])
        return jnp.sum(state.x)

    value, slopes = jax.jit(jax.value_and_grad(x_0))(jnp.zeros((num_draws, 1, 1, 1, 1)))
    return float(value), float(np.sum(np.square(slopes, dtype=np.float64)))


def sampled_moments(step, grid):
    """Mean and variance, float64, of what an affine step makes of x_T ~ N(0, 1).

    The step x_{t-1} = a·x_t + b·noise + c is read off at three points, for all rows of the grid at once.
    """
    zero = jnp.zeros((len(grid.level.t), 1, 1, 1))
    constant = step(zero, grid, zero)
    slope, sigma = step(zero + 1, grid, zero) - constant, step(zero, grid, zero + 1) - constant
    mean, variance = 0.0, 1.0
    rows = np.stack([np.ravel(v).astype(np.float64) for v in (slope, sigma, constant)], axis=1)
    for a, b, c in rows:
        mean, variance = a * mean + c, a**2 * variance + b**2
    return mean, variance
