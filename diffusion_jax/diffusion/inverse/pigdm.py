"""ΠGDM, pseudo-inverse-guided diffusion (Song et al., ICLR 2023): the measurement's likelihood given x_t.

    p(y|x_t) ≈ N(y; A x̂_0, r²·A Aᵀ + s²·I),  r² = σ²                                      eq. 6, 7
    ∇ log p(y|x_t) = Jᵀ Aᵀ (r²·A Aᵀ + s²·I)⁻¹ (y − A x̂_0),  J = ∂x̂_0/∂x_t                  eq. 8

It is exact for data with the covariance I, for which r² is the variance of x_0 given x_t. Here the gradient is
a score that every sampler applies in its way. The paper adds α·r² times it to the step of DDIM, which is more
than the score's share: on Gaussian data the measured directions then have 0 to .2 of the posterior's variance,
as a score .75 to 1.25 of it. Other implementations have other weights.

An evaluation costs one of the denoiser and one gradient through it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, add_gradient
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
        def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            def estimate(x: Array) -> tuple[Array, tuple[Prediction, Any]]:
                prediction, following = denoise(x, level, memory)
                return prediction.x_0, (prediction, following)

            x_0, pull, (prediction, following) = jax.vjp(estimate, x_t, has_aux=True)
            residual = self.measurement.adjoint(self.measurement.residual(x_0), x_0)
            variance, noise = jnp.square(level.sigma), jnp.square(self.measurement.noise)
            (gradient,) = pull(self.measurement.solve(variance, noise, residual))
            return add_gradient(prediction, align(self.scale, x_t) * gradient), following

        return denoise._replace(call=guided)
