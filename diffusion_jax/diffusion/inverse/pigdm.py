"""ΠGDM, pseudo-inverse-guided diffusion (Song et al., ICLR 2023): the measurement's likelihood given x_t.

    p(y|x_t) ≈ N(y; A x̂_0, r²·A Aᵀ + s²·I),  r² = σ²
    ∇ log p(y|x_t) = Jᵀ Aᵀ (r²·A Aᵀ + s²·I)⁻¹ (y − A x̂_0),  J = ∂x̂_0/∂x_t

It is exact for data with the covariance I, for which r² is the variance of x_0 given x_t. Here the
gradient is a score that every sampler applies in its way. The paper adds α·r² times it to the step of
DDIM, which is more than the score's share. Other implementations have other weights.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, add_gradient, tilt
from diffusion_jax.diffusion.guidance import Guidance, Models
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Prediction, align


class PiGDM(Guidance):
    """Guidance by a measurement; with any sampler.

    Attributes:
      scale: of the gradient.
    """

    measurement: Measurement
    scale: Number = option(default=1.0, per_image=True)
    needs_operator: ClassVar[str] = 'linear'

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        measurement = self.measurement

        def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            def estimate(x: Array) -> tuple[Array, tuple[Prediction, Any]]:
                prediction, following = denoise(x, level, memory)
                return prediction.x_0, (prediction, following)

            x_0, pull, (prediction, following) = jax.vjp(estimate, x_t, has_aux=True)
            variance, noise = jnp.square(level.sigma), jnp.square(measurement.noise)
            pulled = measurement.correction(x_0, variance, noise)
            (gradient,) = pull(pulled)
            value = self.scale * self._log_prob(x_0, pulled, variance)
            return add_gradient(prediction, align(self.scale, x_t) * gradient, value), following

        return denoise._replace(call=guided, log_prob=tilt(denoise, measurement.log_prob, self.scale))

    def _log_prob(self, x_0: Array, pulled: Array, variance: Array) -> Array:
        """log p(y|x_t) without its constant, [B], by pulled = v = Aᵀ(r²·A Aᵀ + s²·I)⁻¹(y − A x̂_0).

        The quadratic form is r²·‖v‖² + ‖y − A x̂_0 − r²·A v‖²/s²; without noise its second term is 0.
        """
        noise = jnp.square(jnp.asarray(self.measurement.noise))
        left = self.measurement.squared_error(x_0 + variance * pulled) / jnp.where(noise > 0, noise, 1.0)
        squares = jnp.sum(pulled**2, axis=tuple(range(1, x_0.ndim)))
        return -0.5 * (variance * squares + jnp.where(noise > 0, left, 0.0))
