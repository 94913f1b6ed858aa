"""DDNM, the denoising diffusion null-space model (2212.00490), Algorithm 1: for measurements without noise.

    x̂ = x̂_0 + A⁺(y − A x̂_0)                                                              eq. 13
    x_{t-1} ~ q(x_{t-1}|x_t, x̂)                                                          Algorithm 1
    x_{t-1} = α'·x̂ + σ'·(√(1−η²)·ε̂ + η·noise)                                            the release

ε̂ belongs to x̂_0, not to x̂. The result satisfies A x = y. The second rule renews a share of the noise in every
step, so where nothing is measured the variance tends to (1 + √(1−η²))/2 of the true one for many steps: .76 at
η = .85. For noisy measurements use `DDRM`, whose step is that of DDNM+.

A step costs one evaluation of the denoiser, without a gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Transition, align, true_posterior
from diffusion_jax.diffusion.samplers import Image, Noise, Sampler


def renewed(x_0: Array, eps: Array, noise: Array, transition: Transition, share: Any) -> Array:
    """α'·x_0 + σ'·(√(1 − share)·eps + √share·noise); share: [] or [B]."""
    there, share = align((transition.next, jnp.asarray(share)), x_0)
    return there.alpha * x_0 + there.sigma * (jnp.sqrt(1 - share) * eps + jnp.sqrt(share) * noise)


class DDNM(Sampler):
    """DDNM; the noise of the measurement is not used.

    Attributes:
      eta: η, the share of fresh noise in the release's rule.
      ancestral: samples q(x_{t-1}|x_t, x̂), with the variance β̃.
    """

    measurement: Measurement
    eta: Number = option(default=0.85, most=1.0, per_image=True)
    ancestral: bool = static(default=False)
    needs_operator: ClassVar[str] = 'linear'

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        prediction, memory = denoise(state.x, transition.level, memory)
        x_0 = self.measurement.projected(prediction.x_0)
        if self.ancestral:
            return Image(true_posterior(x_0, state.x, transition).draw(noise(0))), memory
        return Image(renewed(x_0, prediction.eps, noise(0), transition, jnp.square(self.eta))), memory
