"""Ancestral sampling: x_{t-1} ~ N(μ + Σ·g, Σ).

DDPM (2006.11239), Algorithm 2; with the gradient g of guidance 2105.05233, Algorithm 1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.process import Gaussian, Prediction, Transition, align, is_last, posterior
from diffusion_jax.diffusion.samplers.sampler import Image, Noise, Sampler


def ancestral_kernel(
    prediction: Prediction, x_t: Array, transition: Transition, variance: str = 'fixed_small'
) -> Gaussian:
    """p(x_{t-1}|x_t), guided; at the last transition its variance is 0. variance: see `posterior`."""
    mean, value, log_variance = posterior(prediction, x_t, transition, variance)
    if prediction.gradient is not None:
        mean += value * prediction.gradient
    return Gaussian(mean, jnp.where(align(is_last(transition), x_t), 0.0, value), log_variance)


class DDPM(Sampler):
    """Ancestral sampling with the variance that the network was trained with."""

    shifts_mean: ClassVar[bool] = True

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        prediction, memory = denoise(state.x, transition.level, memory)
        kernel = ancestral_kernel(prediction, state.x, transition, denoise.variance)
        return Image(kernel.draw(noise(0))), memory
