"""Methods that move each estimate x̂_0 or x_t to the measurement, without a gradient: DDNM, DiffPIR, RePaint.

DDNM and DiffPIR make x_{t-1} of the moved estimate x̂ and an eps of which a share is renewed. Where nothing is
measured its variance then tends to (1 + √(1−share))/2 of the true one for many steps.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Transition, align, from_x_0, true_posterior
from diffusion_jax.diffusion.samplers import Image, Noise, Sampler, Started, ancestral_kernel


def renewed(x_0: Array, eps: Array, noise: Array, transition: Transition, share: Any) -> Array:
    """α'·x_0 + σ'·(√(1 − share)·eps + √share·noise); share: [] or [B]."""
    there, share = align((transition.next, jnp.asarray(share)), x_0)
    return there.alpha * x_0 + there.sigma * (jnp.sqrt(1 - share) * eps + jnp.sqrt(share) * noise)


class DDNM(Sampler):
    """DDNM, the denoising diffusion null-space model (2212.00490, Algorithm 1), for noise-free measurements.

        x̂ = x̂_0 + A⁺(y − A x̂_0)
        x_{t-1} ~ q(x_{t-1}|x_t, x̂)                      Algorithm 1
        x_{t-1} = α'·x̂ + σ'·(√(1−η²)·ε̂ + η·noise)        in the release; ε̂ belongs to x̂_0, not to x̂

    The result satisfies A x = y. For noisy measurements use `DDRM`, whose step is that of DDNM+.

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


class DiffPIR(Sampler):
    """DiffPIR (2305.08995, Algorithm 1): each estimate is moved towards the measurement by a proximal step.

        x̂ = argmin ‖y − A x‖² + ρ·‖x − x̂_0‖²,  ρ = λ·s²/(σ/α)²
        x_{t-1} = α'·x̂ + σ'·(√(1−ζ)·ε̂ + √ζ·noise),  ε̂ = (x_t − α·x̂)/σ

    Without noise x̂ is the projection of DDNM. s and σ/α have the same units here; the release has s for
    images in [0, 1], so its λ = 1 is λ = ¼.

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
        x_0 = prediction.x_0 + self.measurement.correction(prediction.x_0, 1.0, rho)
        return Image(renewed(x_0, from_x_0(x_0, x, here).eps, noise(0), transition, self.zeta)), memory


class RePaint(Sampler):
    """RePaint (2201.09865, Algorithm 1): the measured part is replaced in every step.

        x_t ← x_t + A⁺(α·y + σ·A·noise − A x_t)          eq. 8a has α·y + σ·noise
        x_{t-1} ~ p(x_{t-1}|x_t)                         eq. 8b; guidance acts on the mean, as in DDPM

    The first step replaces nothing, since its x_T is noise. The paper resamples on a grid that goes up again:
    `respacing='repaint:250/10,10'` has 250 levels, jumps of 10, each stretch 10 times. Without jumps the
    other part fits the measured one badly.

    The measurement is taken as exact, and the last step does not replace: compose the result with y if it
    must agree to the bit.
    """

    measurement: Measurement
    shifts_mean: ClassVar[bool] = True
    needs_operator: ClassVar[str] = 'linear'

    def init(self, x_T: Array) -> Started:
        return Started(x_T, jnp.array(False))

    def restart(self, state: Started, x: Array) -> Started:
        return Started(x, jnp.array(True))

    def step(
        self, denoise: Denoiser, state: Started, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Started, Any]:
        pure = self.measurement.operator(noise(1))
        level = align(transition.level, pure)
        y_t = level.alpha * self.measurement.y + level.sigma * pure
        x = jnp.where(state.started, self.measurement.projected(state.x, y_t), state.x)
        prediction, memory = denoise(x, transition.level, memory)
        kernel = ancestral_kernel(prediction, x, transition, denoise.variance)
        return Started(kernel.draw(noise(0)), jnp.array(True)), memory
