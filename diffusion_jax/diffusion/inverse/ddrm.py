"""DDRM (2201.11793), which has the same step as DDNM+ with singular values (2212.00490, eq. 51).

In each singular direction with singular value s_i, ȳ = (A⁺y)_i has the noise n_i = α'·s/s_i at the scale
of x_{t-1}:

    s_i = 0:    x_{t-1} = α'·x̂_0 + σ'·(√(1−η²)·ε̂ + η·noise)
    σ' < n_i:   x_{t-1} = α'·(x̂_0 + √(1−η²)·σ'/n_i·(ȳ − x̂_0)) + η·σ'·noise
    σ' ≥ n_i:   x_{t-1} = α'·((1−η_b)·x̂_0 + η_b·ȳ) + √(σ'² − η_b²·n_i²)·noise

The start is α·ȳ with the noise √(σ² − n_i²) where σ ≥ n_i, else σ. (The release divides by σ/α instead,
and its last step of a measurement without noise returns x̂_0.)
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.inverse.operators import SMALLEST, adjoint
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Transition, align
from diffusion_jax.diffusion.samplers import Noise, Sampler, Started


class DDRM(Sampler):
    """DDRM; it needs an operator with a spectrum.

    Attributes:
      eta: η, the share of fresh noise.
      eta_b: η_b, the weight of the measurement where its noise is below that of the level.
      given_y: the start depends on y; otherwise it is x_T, which is DDNM+ and allows `sample(images=…)`.
    """

    measurement: Measurement
    eta: Number = option(default=0.85, most=1.0, per_image=True)
    eta_b: Number = option(default=1.0, most=1.0, per_image=True)
    given_y: bool = static(default=True)
    needs_operator: ClassVar[str] = 'spectrum'

    @property
    def keeps_start(self) -> bool:  # type: ignore[override]
        return not self.given_y

    def init(self, x_T: Array) -> Started:
        return Started(x_T, jnp.array(not self.given_y))

    def restart(self, state: Started, x: Array) -> Started:
        return Started(x, jnp.array(True))

    def step(
        self, denoise: Denoiser, state: Started, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Started, Any]:
        x = jax.lax.cond(state.started, lambda x, level: x, self.first, state.x, transition.level)
        prediction, memory = denoise(x, transition.level, memory)
        there, eta, eta_b = align((transition.next, self.eta, self.eta_b), x)
        kept = jnp.sqrt(1 - jnp.square(eta))

        def weight(s: Array) -> Array:
            """Of ȳ, and of x̂_0 1 minus it."""
            noise_y, above = self._noise(s, there)
            below = kept * there.sigma / jnp.where(noise_y > 0, noise_y, 1.0)
            return jnp.where(s > SMALLEST, jnp.where(above, eta_b, below), 0.0)

        def spread(s: Array) -> Array:
            noise_y, above = self._noise(s, there)
            variance = there.sigma**2 - jnp.where(above, eta_b * noise_y, 0.0) ** 2
            return jnp.where(above, jnp.sqrt(variance), eta * there.sigma)

        spectral = self.measurement.operator.spectral
        x = there.alpha * (spectral(lambda s: 1 - weight(s), prediction.x_0) + self._of_y(weight, x))
        x += spectral(lambda s: jnp.where(s > SMALLEST, 0.0, kept * there.sigma), prediction.eps)
        return Started(x + spectral(spread, noise(0)), jnp.array(True)), memory

    def first(self, z: Array, level: Level) -> Array:
        """The start, given y and noise z."""
        level = align(level, z)

        def spread(s: Array) -> Array:
            noise_y, above = self._noise(s, level)
            return jnp.sqrt(level.sigma**2 - jnp.where(above, noise_y, 0.0) ** 2)

        def weight(s: Array) -> Array:
            return self._noise(s, level)[1].astype(z.dtype)

        return level.alpha * self._of_y(weight, z) + self.measurement.operator.spectral(spread, z)

    def _noise(self, s: Array, level: Level) -> tuple[Array, Array]:
        """n_i at an aligned level, and whether σ ≥ n_i; False where nothing is measured."""
        measured = s > SMALLEST
        noise = level.alpha * align(jnp.asarray(self.measurement.noise), s) / jnp.where(measured, s, 1.0)
        return noise, measured & (level.sigma >= noise)

    def _of_y(self, weight: Any, x: Array) -> Array:
        """V weight(S) Vᵀ A⁺y; weight is 0 where nothing is measured."""
        operator = self.measurement.operator
        return operator.spectral(
            lambda s: weight(s) / jnp.where(s > SMALLEST, s, 1.0) ** 2,
            adjoint(operator, self.measurement.y, x),
        )
