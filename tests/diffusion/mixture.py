"""A mixture of Gaussians in image shape: data whose exact denoiser, likelihoods and ODE are known."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, continuous_level, plain
from diffusion_jax.diffusion.process import Level, Prediction, Transition, align, from_x_0
from diffusion_jax.diffusion.samplers import Sampler, sample
from diffusion_jax.diffusion.schedules import between


class Mixture(NamedTuple):
    """x_0 ~ Σ_k weights_k·N(means_k, stds_k²); float64, [K], [K, H, W, C], [K]."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def only(self, k: int) -> 'Mixture':
        """Component k alone."""
        return Mixture(np.ones(1), self.means[k : k + 1], self.stds[k : k + 1])

    def posteriors(self, x_t, level: Level):
        """p(k, x_0|x_t) as log p(k|x_t) [B, K], E[x_0|x_t, k] [B, K, …] and Var[x_0|x_t, k] [1 or B, K]."""
        weights, means, stds = (jnp.asarray(a, x_t.dtype) for a in self)
        alpha, sigma = (jnp.reshape(c, (-1, 1)) for c in (level.alpha, level.sigma))
        total = alpha**2 * stds**2 + sigma**2  # of x_t, given k
        residual = x_t[:, None] - align(alpha, x_t[:, None]) * means
        squared = jnp.sum(residual**2, axis=(2, 3, 4))
        log_joint = jnp.log(weights) - 0.5 * (squared / total + x_t[0].size * jnp.log(total))
        x_0 = means + align(alpha * stds**2 / total, x_t[:, None]) * residual
        return jax.nn.log_softmax(log_joint), x_0, stds**2 * sigma**2 / total

    def predict(self, x_t, level: Level) -> Prediction:
        """The exact prediction, x_0 = E[x_0|x_t]."""
        log_weights, x_0, _ = self.posteriors(x_t, level)
        return from_x_0(jnp.sum(align(jnp.exp(log_weights), x_0) * x_0, axis=1), x_t, level)

    def denoiser(self, **fields: Any) -> Denoiser:
        return plain(self.predict, **fields)

    def class_log_prob(self, k: int) -> LogProb:
        """log p(k|x_t)."""
        return lambda x_t, level: self.posteriors(x_t, level)[0][:, k]

    def measurement_log_prob(self, y, variance: float) -> LogProb:
        """log p(y|x_t), up to a constant, for y = x_0 + N(0, variance)."""

        def log_prob(x_t, level):
            log_weights, x_0, spread = self.posteriors(x_t, level)
            total = spread + variance
            squared = jnp.sum((y - x_0) ** 2, axis=(2, 3, 4)) / total
            log_likelihood = -0.5 * (squared + x_t[0].size * jnp.log(total))
            return jax.nn.logsumexp(log_weights + log_likelihood, axis=1)

        return log_prob

    def solve_ode(self, x_t, sigmas: tuple[float, float], steps: int = 2000):
        """The ODE from the first edm_sigma to the second: Runge and Kutta's method in log sigma."""
        length = (np.log(sigmas[1]) - np.log(sigmas[0])) / steps

        def slope(scaled, log_sigma):
            level = continuous_level(-2 * log_sigma)
            return scaled - self.predict(level.alpha * scaled, level).x_0

        def step(i, scaled):
            s = np.log(sigmas[0]) + i * length
            k1 = slope(scaled, s)
            k2 = slope(scaled + length / 2 * k1, s + length / 2)
            k3 = slope(scaled + length / 2 * k2, s + length / 2)
            k4 = slope(scaled + length * k3, s + length)
            return scaled + length / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        first, last = vp_levels(sigmas).alpha
        return last * jax.jit(lambda x: jax.lax.fori_loop(0, steps, step, x))(x_t / first)


def make_mixture(shape: tuple[int, int, int] = (2, 2, 3)) -> Mixture:
    rng = np.random.default_rng(0)
    return Mixture(np.array([0.3, 0.5, 0.2]), rng.uniform(-0.7, 0.7, (3, *shape)), np.array([0.2, 0.3, 0.15]))


def vp_levels(sigmas) -> Level:
    """The levels of these edm_sigma, float64; t is that of `continuous_level`, and 0 for the clean image."""
    sigmas = np.asarray(sigmas, np.float64)
    alpha = 1 / np.sqrt(1 + sigmas**2)
    return Level(-2 * np.log(np.where(sigmas > 0, sigmas, 1.0)), alpha, sigmas * alpha)


def vp_grid(sigmas, dtype=np.float64) -> Transition:
    """The transitions between the levels of these edm_sigma."""
    return as_dtype(between(vp_levels(sigmas)), dtype)


def as_dtype(grid: Transition, dtype) -> Transition:
    return jax.tree.map(lambda a: a if a.dtype == bool else a.astype(dtype), grid)


def affine_map(sampler: Sampler, denoise: Denoiser, grid: Transition, size: int = 1, draws: int = 2):
    """Reads a sampler off as x_0 = offset + Σ_j columns_j·z_j, for a denoiser that is affine.

    z is x_T and the noise of all steps, each of `size` pixels [1, 1, size]; `draws` is the most that a step
    may ask for. The batch is the origin and one image for each z_j.

    Returns:
      offset [size], columns [n, size]. x_0 has mean `offset` and covariance columnsᵀ·columns.
    """
    number = 1 + size * (1 + draws * len(grid.level.t))

    def draw(i):
        ones = np.arange(number)[:, None] == 1 + size * i + np.arange(size)
        return jnp.asarray(ones, grid.level.t.dtype).reshape(number, 1, 1, size)

    def noise_at(position, i):
        assert i < draws
        return draw(1 + draws * (position - 1) + i)

    x_0 = sample(sampler, denoise, grid, noise_at, draw(0))[0].x.reshape(number, size)
    return x_0[0], x_0[1:] - x_0[0]
