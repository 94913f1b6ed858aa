"""DDIM (2010.02502): the non-Markovian sampler; at η = 0 Euler's method for the ODE, in both directions.

    x_{t-1} = √ᾱ_{t-1}·x̂_0 + √(1−ᾱ_{t-1}−σ²)·ε̂ + σ·noise                              eq. 12
    σ = η·√((1−ᾱ_{t-1})/(1−ᾱ_t))·√β_t                                                  eq. 16

With guidance x̂_0 and ε̂ are those of the shifted score (2105.05233, Algorithm 2).
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Gaussian, Prediction, Transition, align
from diffusion_jax.diffusion.samplers.loop import Image, Noise, Sampler


def ddim_kernel(prediction: Prediction, x_t: Array, transition: Transition, eta: Number) -> Gaussian:
    """The Gaussian of x_{t-1}, with the variance β̃ of DDPM at η = 1 and 0 at η = 0; eta: [] or [B]."""
    mean, sigma = _mean_and_sigma(prediction, x_t, transition, eta)
    return Gaussian(mean, sigma**2, 2 * jnp.log(sigma))


def _mean_and_sigma(
    prediction: Prediction, x_t: Array, transition: Transition, eta: Number
) -> tuple[Array, Array]:
    eta, here, there, log_beta = align((eta, transition.level, transition.next, transition.log_beta), x_t)
    sigma = eta * there.sigma / here.sigma * jnp.exp(0.5 * log_beta)
    # Rounding can leave a negative remainder where one step spans nearly all of the noise.
    remainder = there.sigma**2 - sigma**2
    positive = remainder > 0
    direction = jnp.where(positive, jnp.sqrt(jnp.where(positive, remainder, 1.0)), 0.0)
    return there.alpha * prediction.x_0 + direction * prediction.eps, sigma


class DDIM(Sampler):
    """DDIM; over a grid with rising noise levels it inverts images to noise.

    Attributes:
      eta: η, from 0 (deterministic) to 1 (as random as DDPM).
    """

    eta: Number = option(default=0.0, most=1.0)
    order: ClassVar[int | None] = 1
    random_option: ClassVar[str | None] = 'eta'

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        prediction, memory = denoise(state.x, transition.level, memory)
        # Not `ddim_kernel(…).draw`, whose derivative by η is lost in the logarithm at η = 0.
        mean, sigma = _mean_and_sigma(prediction, state.x, transition, self.eta)
        return Image(mean + sigma * noise(0)), memory
