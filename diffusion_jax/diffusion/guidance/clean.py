"""Guidance by a log-probability of clean images at the estimate of x_0, without the network's gradient.

    clean, calibrated    g = s·∇ log p(y|x̂_0)                          at x̂_0, which is held constant
    ascent               x̂_0 ← x̂_0 + s·∇ log p(y|x̂_0), `steps` times;  ε̂ = (x_t − alpha·x̂_0)/sigma
    reward               r_t = s·log p(y|x̂_0), for the weights of particles alone

g enters as the gradient of log p(y|x_t) does, from one evaluation of log p and its gradient; where x̂_0 is
clipped it is taken at the clipped image. Through the network (`reconstruction`) it costs the network's
gradient, too.
"""

from typing import Any, ClassVar

import jax
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient, add_log_prob, tilt
from diffusion_jax.diffusion.guidance.classifier import pick
from diffusion_jax.diffusion.guidance.guidance import EstimateGuidance, Guidance, Models
from diffusion_jax.diffusion.log_probs import ascend, of_clean_images, with_gradient
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, align, from_x_0


def clean_guidance(denoise: Denoiser, log_prob: LogProb, scale: Number) -> Denoiser:
    """Adds scale·∇ log_prob(x̂_0, level) to the prediction's gradient; scale: [] or [B]."""

    def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, memory = denoise(x_t, level, memory)
        value, gradient = with_gradient(log_prob, prediction.x_0, level)
        return add_gradient(prediction, align(scale, x_t) * gradient, scale * value), memory

    return denoise._replace(call=guided, log_prob=tilt(denoise, log_prob, scale))


def calibrated(logits: Array, y: Array, tau_1: Number, tau_2: Number) -> Array:
    """log[exp(τ₁·f_y) / Σ_k exp(τ₂·f_k)], [B]: at τ₁ = τ₂ = 1 log p(y), at τ₂ = 0 the logit alone."""
    return tau_1 * pick(logits, y) - jax.nn.logsumexp(tau_2 * logits, axis=-1)


class CleanGuidance(EstimateGuidance):
    """Guidance by the gradient of log p(y|x̂_0) at x̂_0.

    Attributes:
      scale: of the gradient.
    """

    asks_once: ClassVar[bool] = True

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return clean_guidance(denoise, self.log_prob_of(models), self.scale)


class CalibratedGuidance(Guidance):
    """Guidance at x̂_0 by a classifier with two temperatures (EluCD, 2310.11311); see `calibrated`.

    The published figure (128×128, FID 2.19) has a ResNet-101 with Softplus of β = 3 in place of ReLU, τ₁ = 1,
    τ₂ = 0.5, scale 1, and `elucd:gamma=0.3` as the sampler.

    Attributes:
      scale: of the gradient.
      tau_1: τ₁, of the logit of y.
      tau_2: τ₂, of all logits in the sum.
      logits: (x̂_0, level of x_t) → [B, K], differentiable; by default the classifier's, of a clean image.
    """

    scale: Number = option(default=1.0, per_image=True)
    tau_1: Number = option(default=1.0)
    tau_2: Number = option(default=0.5)
    logits: LogProb | None = static(default=None)
    asks_once: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        return ('y',) if self.logits else ('logits', 'y')

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        logits = self.logits or of_clean_images(models.logits)

        def log_prob(x_0: Array, level: Level) -> Array:
            return calibrated(logits(x_0, level), models.y, self.tau_1, self.tau_2)

        return clean_guidance(denoise, log_prob, self.scale)


class AscentGuidance(EstimateGuidance):
    """Guidance by gradient ascent on log p(y|x_0) from the estimate of x_0.

    The backward guidance of universal guidance (2302.07121); with one step close to MPGD (2311.16424), which
    keeps the ε̂ of the old x̂_0. The step is in the units of x_0 and does not depend on the level, so it is no
    estimate of a posterior's score: the gradient of log p(y|x_t) would have the weight sigma²/alpha.

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


class Reward(EstimateGuidance):
    """A reward of x̂_0, for the sampler `SMC` alone: it then samples p(x)·exp(scale·log_prob(x)).

    FK steering (2501.06848). It costs one evaluation of log_prob a step, which need not be differentiable.

    Attributes:
      scale: λ of FK steering.
    """

    asks_once: ClassVar[bool] = True
    has_gradient: ClassVar[bool] = False

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        log_prob = self.log_prob_of(models)

        def rewarded(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            prediction, memory = denoise(x_t, level, memory)
            return add_log_prob(prediction, self.scale * log_prob(prediction.x_0, level)), memory

        return denoise._replace(call=rewarded, log_prob=tilt(denoise, log_prob, self.scale))
