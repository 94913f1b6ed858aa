"""Steps as some released implementations make them, where ours differ; and steps of papers without a part."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.inverse import DAPS, DDRM, Measurement, adjoint
from diffusion_jax.diffusion.inverse.operators import solve
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.samplers import DDIM, Image, Sampler, ddim_kernel


class ReleasedStart(DDRM):
    """DDRM whose start is divided by σ/α, where it should be multiplied by α."""

    def first(self, z, level):
        return super().first(z, level) / level.sigma


class LikelihoodTwice(DAPS):
    """DAPS with the gradient of ‖y − A x‖²/s², without the factor ½."""

    def _langevin(self, x_0, sigma, rate, noise):
        measurement = self.measurement
        twice = Measurement(measurement.operator, measurement.y, measurement.noise / 2**0.5)
        return DAPS._langevin(DAPS(twice, langevin_steps=self.langevin_steps), x_0, sigma, rate, noise)


class AddedGradient(Sampler):
    """DDIM plus α·r² times the gradient (ΠGDM's paper), or α·α'·r² (its author's release)."""

    eta: Number = option(default=0.0)
    released: bool = static(default=False)
    shifts_mean = True

    def step(self, denoise, state, memory, transition, noise):
        here = transition.level
        prediction, memory = denoise(state.x, here, memory)
        kernel = ddim_kernel(prediction, state.x, transition, self.eta)
        weight = here.alpha * here.sigma**2 * (transition.next.alpha if self.released else 1.0)
        x = kernel.mean + jnp.sqrt(kernel.variance) * noise(0) + weight * prediction.gradient
        return Image(x), memory


class DPSWithDDIM(Sampler):
    """DPS of RED-diff's repository: the gradient of the squared norm, divided by the norm; with DDIM."""

    measurement: Measurement
    weight: Number = option(default=0.1)
    eta: Number = option(default=1.0)

    def step(self, denoise, state, memory, transition, noise):
        def squares(x):
            prediction, _ = denoise(x, transition.level, memory)
            found = self.measurement.squared_error(prediction.x_0)
            return jnp.sum(found), found

        gradient, found = jax.grad(squares, has_aux=True)(state.x)
        state, memory = DDIM(eta=self.eta).step(denoise, state, memory, transition, noise)
        return Image(state.x - self.weight * gradient / jnp.sqrt(found)[:, None, None, None]), memory


class Simplified(Sampler):
    """DDNM+ with one λ and γ for all directions (2212.00490, eq. 19), which loses variance everywhere.

    released: ᾱ' has the place of α', σ' is √(1−ᾱ'²) in λ and γ, and the noise is multiplied by σ' again.
    """

    measurement: Measurement
    eta: Number = option(default=0.85)
    released: bool = static(default=False)

    def step(self, denoise, state, memory, transition, noise):
        there, s = transition.next, self.measurement.noise
        prediction, memory = denoise(state.x, transition.level, memory)
        a = there.alpha**2 if self.released else there.alpha
        sigma = jnp.sqrt(1 - a**2)
        weight = jnp.where(sigma >= a * s, 1.0, sigma / (a * s))
        gamma = jnp.sqrt(jnp.maximum(sigma**2 - (a * weight * s) ** 2, 0.0))
        gamma = gamma * there.sigma if self.released else gamma
        x_0 = prediction.x_0 + weight * (self.measurement.projected(prediction.x_0) - prediction.x_0)
        fresh = self.eta * noise(0) + jnp.sqrt(1 - self.eta**2) * prediction.eps
        return Image(there.alpha * x_0 + gamma * fresh), memory


class IdealDAPS(DAPS):
    """DAPS with the exact solution of the ODE, to σ = 0, and exact draws; for one Gaussian."""

    model: Any = static(default=None)

    def _solve_ode(self, denoise, x, memory, sigma):
        variances, axes = np.linalg.eigh(self.model.covs[0])
        mean = self.model.means[0]
        gain = jnp.sqrt(variances / (variances + sigma**2))
        return mean + (((x - mean) @ axes) * gain) @ axes.T, memory

    def _langevin(self, x_0, sigma, rate, noise):
        m = self.measurement
        precision = sigma**-2, m.noise**-2

        def root(s):
            return jnp.sqrt(1 / (precision[0] + s**2 * precision[1]))

        residual = adjoint(m.operator, m.residual(x_0), x_0) * precision[1]
        mean = x_0 + solve(m.operator, precision[1], precision[0], residual)
        return mean + m.operator.spectral(root, noise(1))
