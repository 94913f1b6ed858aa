"""Heun's method with churn: EDM (2206.00364), Algorithm 2.

In x̄ = x_t/alpha at σ = sigma/alpha the ODE is dx̄/dσ = ε̂. A step first raises σ by the factor 1 + γ, with
fresh noise, then lowers it with the mean of the slopes at both ends; to the clean image with the first slope.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import LARGEST, Number, option
from diffusion_jax.diffusion.process import Level, Transition, align
from diffusion_jax.diffusion.samplers.loop import Image, Noise, Sampler


class Heun(Sampler):
    """EDM's sampler; two evaluations a step; levels are [].

    Attributes:
      s_churn: S_churn, the amount of fresh noise; 0 is deterministic.
      s_min, s_max: S_tmin and S_tmax, between which σ is raised.
      s_noise: S_noise, the standard deviation of the fresh noise.
    """

    s_churn: Number = option(default=0.0)
    s_min: Number = option(default=0.0)
    s_max: Number = option(default=LARGEST)
    s_noise: Number = option(default=1.0)
    evaluations: ClassVar[int] = 2
    order: ClassVar[int | None] = 2
    random_option: ClassVar[str | None] = 's_churn'

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        x, here = self._churned(denoise, state.x, transition, noise)
        there = transition.next
        scaled, length = x / here.alpha, there.edm_sigma - here.edm_sigma
        first, memory = denoise(x, here, memory)

        def second(memory: Any) -> tuple[Array, Any]:
            euler = there.alpha * (scaled + length * first.eps)
            prediction, memory = denoise(euler, there, memory)
            return 0.5 * (first.eps + prediction.eps), memory

        slope, memory = jax.lax.cond(there.sigma > 0, second, lambda memory: (first.eps, memory), memory)
        return Image(there.alpha * (scaled + length * slope)), memory

    def _churned(
        self, denoise: Denoiser, x: Array, transition: Transition, noise: Noise
    ) -> tuple[Array, Level]:
        here, sigma = transition.level, transition.level.edm_sigma
        gamma = jnp.minimum(self.s_churn / transition.num_steps, math.sqrt(2) - 1)
        gamma = jnp.where((self.s_min <= sigma) & (sigma <= self.s_max), gamma, 0.0)
        raised = denoise.level_at(-2 * jnp.log(sigma * (1 + gamma)))
        raised = jax.tree.map(lambda there, same: jnp.where(gamma > 0, there, same), raised, here)
        added = jnp.sqrt(jnp.maximum(raised.edm_sigma**2 - sigma**2, 0.0)) * self.s_noise
        churned = raised.alpha * (x / here.alpha + align(added, x) * noise(0))
        return jnp.where(gamma > 0, churned, x), raised


# The stochastic settings that EDM recommends for its own ImageNet-64 model, with the grid 'karras:256'.
EDM_IMAGENET64 = Heun(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)
