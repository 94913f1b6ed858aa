"""DPS, diffusion posterior sampling (2209.14687), Algorithm 1.

    x_{t-1} = ancestral(x_t) − ζ·∇ ‖y − A x̂_0(x_t)‖

The gradient is taken at x_t, through the denoiser. Its square, ζ·∇‖y − A x̂_0‖², is the form before the
paper's normalisation of ζ. The release takes one norm over the batch; here it is that of each image. The
noise of the measurement has no influence. Any differentiable operator works, linear or not.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Prediction, Transition, align
from diffusion_jax.diffusion.samplers import Image, Noise, Sampler, ancestral_kernel


class DPS(Sampler):
    """DPS; guidance acts on the mean in addition, as in DDPM.

    Attributes:
      zeta: ζ, the length of a step; the paper has 0.3 to 1 for 1,000 steps.
      squared: the gradient of the squared norm.
    """

    measurement: Measurement
    zeta: Number = option(default=0.3, per_image=True)
    squared: bool = static(default=False)
    shifts_mean: ClassVar[bool] = True

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        def distance(x: Array) -> tuple[Array, tuple[Prediction, Any]]:
            prediction, following = denoise(x, transition.level, memory)
            squares = self.measurement.squared_error(prediction.x_0)
            positive = squares > 0
            norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)
            return jnp.sum(squares if self.squared else norms), (prediction, following)

        gradient, (prediction, memory) = jax.grad(distance, has_aux=True)(state.x)
        kernel = ancestral_kernel(prediction, state.x, transition, denoise.variance)
        return Image(kernel.draw(noise(0)) - align(self.zeta, state.x) * gradient), memory
