"""Guidance by a classifier of clean images at the estimate of x_0, without a gradient through the network.

    g = s·∇ log p(y|x̂_0)                                      at x̂_0, which is held constant
    log p = log[exp(τ₁·f_y) / Σ_k exp(τ₂·f_k)]                 EluCD (2310.11311), f are the logits

The gradient enters as that of log p(y|x_t) does. Costs one evaluation of the classifier and its gradient;
through the network (`reconstruction`) it costs the network's gradient, too. Where x̂_0 is clipped the gradient
is taken at the clipped image. The sampler `elucd` has that paper's additional variance.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient, tilt
from diffusion_jax.diffusion.guidance.classifier import pick
from diffusion_jax.diffusion.guidance.guidance import EstimateGuidance, Guidance, Models
from diffusion_jax.diffusion.log_probs import of_clean_images, with_gradient
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, align


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
    """Guidance at x̂_0 by a classifier with two temperatures (EluCD).

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
