"""RED-diff (2305.04391), Algorithm 1: an optimisation of one image μ by Adam; it samples no distribution.

    loss = ½·mean((y − A μ)²) + λ·(σ/α)·mean(stop(ε̂(x_t) − eps)·μ),  x_t = α·μ + σ·eps

over the levels of the grid, from noisy to clean. The means are those of the release (over the
measurement's entries, and over pixels), so λ = 0.25 has its meaning; the noise of the measurement is not
used. Adam's step has the length `rate` in every pixel, so small grids need a larger one.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Transition, add_noise, align
from diffusion_jax.diffusion.samplers import Noise, Sampler

DECAYS = 0.9, 0.99  # of Adam's moments


class Optimized(NamedTuple):
    """μ, Adam's moments of its gradient, and the number of steps, [] int32."""

    x: Array
    first: Array
    second: Array
    done: Array


class REDDiff(Sampler):
    """RED-diff; it starts from A⁺y, not from x_T.

    Attributes:
      lam: λ, the weight of the denoiser.
      rate: the learning rate of Adam, for pixels in [−1, 1].
    """

    measurement: Measurement
    lam: Number = option(default=0.25)
    rate: Number = option(default=0.1)
    keeps_start: ClassVar[bool] = False
    needs_operator: ClassVar[str] = 'linear'

    def init(self, x_T: Array) -> Optimized:
        nothing = jnp.zeros_like(x_T)
        return Optimized(self.measurement.projected(nothing), nothing, nothing, jnp.zeros((), jnp.int32))

    def restart(self, state: Optimized, x: Array) -> Optimized:
        return state  # μ is a clean image: the noise of the grid is not added to it

    def step(
        self, denoise: Denoiser, state: Optimized, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Optimized, Any]:
        here, eps = transition.level, noise(0)
        prediction, memory = denoise(add_noise(state.x, eps, here), here, memory)
        gradient = self.gradient(state.x, prediction.eps - eps, here)
        done, (one, two) = state.done + 1, DECAYS
        first = one * state.first + (1 - one) * gradient
        second = two * state.second + (1 - two) * gradient**2
        length = self.rate / (1 - one**done) / (jnp.sqrt(second / (1 - two**done)) + 1e-8)
        return Optimized(state.x - length * first, first, second, done), memory

    def gradient(self, x: Array, error: Array, level: Level) -> Array:
        """Of the loss of each image x by x; error: ε̂ − eps."""

        def data_loss(x: Array) -> Array:
            size = self.measurement.residual(x)[0].size
            return jnp.sum(self.measurement.squared_error(x)) / (2 * size)

        weight = align(self.lam * level.edm_sigma, x) / x[0].size
        return jax.grad(data_loss)(x) + weight * error
