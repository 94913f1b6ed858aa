"""Guidance by ascent: x̂_0 moves up the gradient of log p(y|x_0), taken at x̂_0 and not through the network.

    x̂_0 ← x̂_0 + s·∇ log_prob(x̂_0), `steps` times;  ε̂ = (x_t − alpha·x̂_0)/sigma

The backward guidance of universal guidance (2302.07121); with one step close to MPGD (2311.16424),
which keeps the ε̂ of the old x̂_0. It costs no gradient of the network. The step s is in the units of x_0 and
does not depend on the level, so it is no estimate of a posterior's score: the gradient of log p(y|x_t) would
have the weight sigma²/alpha.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import EstimateGuidance, Models
from diffusion_jax.diffusion.log_probs import ascend
from diffusion_jax.diffusion.parts import static
from diffusion_jax.diffusion.process import Level, Prediction, from_x_0


class AscentGuidance(EstimateGuidance):
    """Guidance by gradient ascent on log p(y|x_0) from the estimate of x_0.

    Attributes:
      scale: s, the length of a step.
      steps: their number.
    """

    steps: int = static(default=1, values=1)
    asks_once: ClassVar[bool] = True
    has_gradient: ClassVar[bool] = False

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        log_prob = self.log_prob_of(models)

        def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            prediction, memory = denoise(x_t, level, memory)
            x_0 = ascend(log_prob, prediction.x_0, level, self.scale, self.steps)
            x_0, eps, *_ = from_x_0(x_0, x_t, level)
            return prediction._replace(x_0=x_0, eps=eps, mean=None), memory

        return denoise._replace(call=guided)
