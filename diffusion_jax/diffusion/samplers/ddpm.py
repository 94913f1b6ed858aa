"""Ancestral sampling: x_{t-1} ~ N(μ + Σ·g, Σ).

DDPM (2006.11239), Algorithm 2; with the gradient g of guidance 2105.05233, Algorithm 1.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Gaussian, Prediction, Transition, align, is_last, posterior
from diffusion_jax.diffusion.samplers.loop import Image, Noise, Sampler


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


class Largest(NamedTuple):
    """x, the largest variance so far [B], and the number of steps done."""

    x: Array
    variance: Array
    done: Array


def additional_variance(largest: Array, remaining: Array, num_steps: Array, gamma: Number) -> Array:
    """a_i of i remaining steps of N, like `largest`."""
    return gamma * largest * jnp.sin(jnp.pi * remaining / num_steps)


class EluCD(Sampler):
    """DDPM whose guidance acts more strongly in the middle of the process; without guidance it is DDPM.

        x_{t−1} ~ N(μ + (Σ + a_i)·g, Σ),   a_i = γ·max Σ·sin(π·i/N)                  EluCD, 2310.11311

    i counts the steps that remain after this one, N those of the grid. The count starts at the first level of
    the grid, also where the grid goes up again. max Σ is the largest variance of the first pixel so far, for
    each image; the authors' release takes that of the first image of a process, so that there an image
    depends on its batch.

    Attributes:
      gamma: γ.
    """

    gamma: Number = option(default=0.3)
    shifts_mean: ClassVar[bool] = True

    def init(self, x_T: Array) -> Largest:
        return Largest(x_T, jnp.zeros(x_T.shape[:1], x_T.dtype), jnp.zeros((), jnp.int32))

    def restart(self, state: Largest, x: Array) -> Largest:
        return state._replace(x=x)

    def step(
        self, denoise: Denoiser, state: Largest, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Largest, Any]:
        prediction, memory = denoise(state.x, transition.level, memory)
        arguments = prediction, state.x, transition, denoise.variance
        variance = jnp.broadcast_to(posterior(*arguments).variance, state.x.shape)[:, 0, 0, 0]
        largest = jnp.maximum(state.variance, variance)
        kernel = ancestral_kernel(*arguments)
        if prediction.gradient is not None:
            remaining = transition.num_steps - 1 - state.done
            more = additional_variance(largest, remaining, transition.num_steps, self.gamma)
            kernel = kernel._replace(mean=kernel.mean + align(more, state.x) * prediction.gradient)
        return Largest(kernel.draw(noise(0)), largest, state.done + 1), memory
