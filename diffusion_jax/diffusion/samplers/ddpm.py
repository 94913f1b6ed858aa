"""Ancestral sampling: x_{t-1} ~ N(μ + Σ·g, Σ).

DDPM (2006.11239), Algorithm 2; with the gradient g of guidance 2105.05233, Algorithm 1.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.process import Denoiser, Transition, align, is_last, posterior


def ddpm_step(denoise: Denoiser, x_t: Array, transition: Transition, noise: Array, variance: str) -> Array:
    """x_{t-1} from x_t; noise ~ N(0, 1) like x_t. The last transition returns the mean and adds no noise."""
    prediction = denoise(x_t, transition)
    mean, var, log_variance = posterior(prediction, x_t, transition, variance)
    if prediction.gradient is not None:
        mean += var * prediction.gradient
    sigma = jnp.where(align(is_last(transition), x_t), 0.0, jnp.exp(0.5 * log_variance))
    return mean + sigma * noise
