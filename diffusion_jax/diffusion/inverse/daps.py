"""DAPS, decoupled annealing posterior sampling (2407.01521), Algorithm 1.

At every level σ̄ = σ/α, with x̄ = x_t/α:

    x̂ = the probability-flow ODE from x̄ at σ̄ to `ode_sigma`, by Euler steps with equal steps of σ̄^(1/7)
    x ← x − h·∇[‖x − x̂‖²/(2σ̄²) + ‖y − A x‖²/(2s²)] + √(2h)·noise, from x̂: Langevin
    x_{t-1} = α'·x + σ'·noise

h falls linearly over the N levels from `rate`, and would reach rate·last_rate at level N + 1. (The
release has the gradient of ‖y − A x‖²/s², so its effective noise is s/√2.) Exact draws in the second line
would leave 2 to 3 times the posterior's variance where nothing is measured; few short steps hide this. h must
be below 2/(‖A‖²/s² + 1/σ̄²). The operator need not be linear.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Transition, align
from diffusion_jax.diffusion.samplers import Noise, Sampler
from diffusion_jax.diffusion.schedules import KARRAS_RHO


class Annealed(NamedTuple):
    """x_t, and the number of steps that were made, [] int32."""

    x: Array
    done: Array


class DAPS(Sampler):
    """DAPS; the noise of the measurement must be above 0.

    Attributes:
      rate, last_rate: the step size h of the first level, and the share of it that h falls to.
      ode_sigma: σ̄ where the ODE ends.
      ode_steps, langevin_steps: their numbers.
    """

    measurement: Measurement
    rate: Number = option(default=1e-4)
    last_rate: Number = option(default=0.01, most=1.0)
    ode_sigma: Number = option(default=0.01, least=1e-6)
    ode_steps: int = static(default=5, values=1)
    langevin_steps: int = static(default=100, values=0)
    needs_noise: ClassVar[bool] = True

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.ode_steps

    @property
    def last_evaluations(self) -> int:  # type: ignore[override]
        return self.ode_steps

    def init(self, x_T: Array) -> Annealed:
        return Annealed(x_T, jnp.zeros((), jnp.int32))

    def restart(self, state: Annealed, x: Array) -> Annealed:
        return state._replace(x=x)

    def step(
        self, denoise: Denoiser, state: Annealed, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Annealed, Any]:
        here, there = transition.level, align(transition.next, state.x)
        x_0, memory = self._solve_ode(denoise, state.x / align(here.alpha, state.x), memory, here.edm_sigma)
        rate = self.rate * (1 + state.done / (transition.num_steps + 1) * (self.last_rate - 1))
        x = self._langevin(x_0, here.edm_sigma, rate, noise)
        return Annealed(there.alpha * x + there.sigma * noise(0), state.done + 1), memory

    def _solve_ode(self, denoise: Denoiser, x: Array, memory: Any, sigma: Array) -> tuple[Array, Any]:
        """The solution at `ode_sigma`, in the space x_0 + σ̄·eps, and the denoiser's memory."""
        last = jnp.minimum(sigma, self.ode_sigma)
        shares = jnp.arange(self.ode_steps + 1) / self.ode_steps
        first, end = sigma ** (1 / KARRAS_RHO), last ** (1 / KARRAS_RHO)
        sigmas = (first + shares * (end - first)) ** KARRAS_RHO

        def euler(carry: tuple[Array, Any], ends: Array) -> tuple[tuple[Array, Any], None]:
            x, memory = carry
            level = denoise.level_at(-2 * jnp.log(ends[0]))
            prediction, memory = denoise(level.alpha * x, level, memory)
            return (x + (ends[1] - ends[0]) * prediction.eps, memory), None

        return jax.lax.scan(euler, (x, memory), jnp.stack([sigmas[:-1], sigmas[1:]], axis=1))[0]

    def _langevin(self, x_0: Array, sigma: Array, rate: Array, noise: Noise) -> Array:
        def potential(x: Array) -> Array:
            prior = jnp.sum((x - x_0) ** 2) / (2 * sigma**2)
            return prior - jnp.sum(self.measurement.log_prob(x))

        def move(i: Array, x: Array) -> Array:
            return x - rate * jax.grad(potential)(x) + jnp.sqrt(2 * rate) * noise(i)

        return jax.lax.fori_loop(1, self.langevin_steps + 1, move, x_0)
