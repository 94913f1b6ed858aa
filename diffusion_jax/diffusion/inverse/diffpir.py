"""DiffPIR (2305.08995), Algorithm 1: each estimate is moved towards the measurement by a proximal step.

    x̂ = argmin ‖y − A x‖² + ρ·‖x − x̂_0‖²,  ρ = λ·s²/(σ/α)²                                  eq. 12
    x_{t-1} = α'·x̂ + σ'·(√(1−ζ)·ε̂ + √ζ·noise),  ε̂ = (x_t − α·x̂)/σ                          eq. 14, 15

Without noise x̂ is the projection of DDNM. s and σ/α have the same units here; the release has s for images in
[0, 1], so its λ = 1 is λ = ¼. As for `DDNM`, the second line leaves too little variance for ζ > 0.

A step costs one evaluation of the denoiser, without a gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.inverse.ddnm import renewed
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Transition, from_x_0
from diffusion_jax.diffusion.samplers import Image, Noise, Sampler


class DiffPIR(Sampler):
    """DiffPIR.

    Attributes:
      lam: λ, the weight of the estimate against the measurement.
      zeta: ζ, the share of fresh noise.
    """

    measurement: Measurement
    lam: Number = option(default=1.0, per_image=True)
    zeta: Number = option(default=0.3, most=1.0, per_image=True)
    needs_operator: ClassVar[str] = 'linear'

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        here, x = transition.level, state.x
        prediction, memory = denoise(x, here, memory)
        rho = self.lam * jnp.square(self.measurement.noise / here.edm_sigma)
        residual = self.measurement.residual(prediction.x_0)
        x_0 = prediction.x_0 + self.measurement.solve(1.0, rho, self.measurement.adjoint(residual, x))
        return Image(renewed(x_0, from_x_0(x_0, x, here).eps, noise(0), transition, self.zeta)), memory
