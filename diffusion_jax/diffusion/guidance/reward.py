"""A reward of the estimate of x_0, which weighs particles and has no gradient (FK steering, 2501.06848)."""

from __future__ import annotations

from typing import Any, ClassVar

from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_log_prob, tilt
from diffusion_jax.diffusion.guidance.guidance import EstimateGuidance, Models
from diffusion_jax.diffusion.parts import Number
from diffusion_jax.diffusion.process import Level, Prediction


def reward(denoise: Denoiser, log_prob: LogProb, scale: Number) -> Denoiser:
    """Adds scale·log_prob(x̂_0(x_t), level) to the prediction's log-probability; scale: [] or [B]."""

    def rewarded(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, memory = denoise(x_t, level, memory)
        return add_log_prob(prediction, scale * log_prob(prediction.x_0, level)), memory

    return denoise._replace(call=rewarded, log_prob=tilt(denoise, log_prob, scale))


class Reward(EstimateGuidance):
    """A reward of x̂_0, for the sampler `SMC` alone: it then samples p(x)·exp(scale·log_prob(x)).

    It costs one evaluation of log_prob a step, and no gradient: log_prob need not be differentiable.

    Attributes:
      scale: λ of FK steering.
    """

    asks_once: ClassVar[bool] = True
    has_gradient: ClassVar[bool] = False

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return reward(denoise, self.log_prob_of(models), self.scale)
