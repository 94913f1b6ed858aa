"""Weighted averages over independent populations, with their standard errors."""

from typing import Any

import jax
import numpy as np

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.process import Transition
from diffusion_jax.diffusion.samplers import SMC, sample


def draw_populations(
    sampler: SMC, denoise: Denoiser, grid: Transition, size: int, number: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """x_0 [number, P, size] and log-weights [number, P] of images [1, 1, size]."""

    def noise_at(position, i):
        step = jax.random.fold_in(jax.random.fold_in(key, position), i)
        return jax.random.normal(step, (number * sampler.particles, 1, 1, size))

    state: Any = sample(sampler, denoise, grid, noise_at, noise_at(0, 0))[0]
    return state.x.reshape(number, -1, size), state.log_weight.reshape(number, -1)


def weighted(log_weight: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ w·f/Σ w of values [number, P, …] and its standard error; populations are independent."""
    weights = np.exp(log_weight - log_weight.max())
    total, sums = weights.sum(1), np.einsum('rp,rp...->r...', weights, values)
    mean = sums.sum(0) / total.sum()
    residual = sums - total.reshape(-1, *[1] * mean.ndim) * mean
    return mean, np.sqrt(np.sum(residual**2, axis=0)) / total.sum()


def moments(x_0: np.ndarray, log_weight: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """'mean', 'cov' and 'log_Z' (of p(x)·p(y|x)^s), each with its standard error."""
    mean, mean_error = weighted(log_weight, x_0)
    centred = x_0 - mean
    cov = weighted(log_weight, centred[..., :, None] * centred[..., None, :])
    weights = np.exp(log_weight - log_weight.max()).mean(1)
    error = weights.std(ddof=1) / np.sqrt(len(weights)) / weights.mean()
    log_z = np.log(weights.mean()) + log_weight.max()
    return {'mean': (mean, mean_error), 'cov': cov, 'log_Z': (log_z, error)}
