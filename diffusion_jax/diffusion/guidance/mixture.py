"""Classifier guidance towards a mixture of classes: the gradient of log Σ_k w_k·p(k|x_t).

That is the likelihood of x_t being of one of several classes, where w_k is the likelihood of the wish given
class k; a factor common to all w changes nothing. With one class it is classifier guidance.
Costs as classifier guidance.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb
from diffusion_jax.diffusion.guidance.classifier import classifier_guidance
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level


def log_mixture(logits: Array, weights: Array) -> Array:
    """log Σ_k w_k·p_k, [B], from logits [B, K] and w ≥ 0, [K] or [B, K], of which one is above 0."""
    chosen = jnp.where(weights > 0, jnp.log(jnp.where(weights > 0, weights, 1.0)), -jnp.inf)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + chosen, axis=-1)


class MixtureGuidance(Guidance):
    """Classifier guidance towards several classes; y is not used.

    Attributes:
      weights: w, [K] or [B, K], or, before a request is made of it, {class: w}, by number or by name.
      scale: of the gradient.
      logits: (x_t, level) → [B, K], differentiable; by default those of the noise-aware classifier.
    """

    weights: Any
    scale: Number = option(default=1.0, per_image=True)
    logits: LogProb | None = static(default=None)
    asks_once: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.logits else ('logits',)

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        logits = self.logits or models.logits

        def log_prob(x_t: Array, level: Level) -> Array:
            return log_mixture(logits(x_t, level), jnp.asarray(self.weights, x_t.dtype))

        return classifier_guidance(denoise, log_prob, self.scale)
