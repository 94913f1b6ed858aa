"""Entropy-driven scaling of classifier guidance (EDS, 2206.11474).

    g = s·log K / max(H(p(·|x_t)), floor)·∇ log p(y|x_t)

H is the entropy of the classifier's K probabilities, in nats. Where the classifier is sure, its gradient
vanishes; the factor restores it. The factor is one number for each image, 1 where all classes are equally
likely, and is not differentiated. It grows without bound as H → 0; the floor keeps it below log K/floor.
Costs as classifier guidance: one evaluation of the classifier and its gradient.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient
from diffusion_jax.diffusion.guidance.classifier import pick
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, align


def entropy_factor(log_probs: Array, floor: Number) -> Array:
    """log K / max(H, floor), [B], from normalized log-probabilities [B, K]; it has no gradient."""
    log_probs = jax.lax.stop_gradient(log_probs)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return math.log(log_probs.shape[-1]) / jnp.maximum(entropy, floor)


def entropy_guidance(
    denoise: Denoiser, logits: LogProb, y: Array, scale: Number, floor: Number = 0.01
) -> Denoiser:
    """Adds the scaled gradient at x_t; logits: (x_t, level) → [B, K]; scale: s, [] or [B]."""

    def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        def value(x: Array) -> tuple[Array, Array]:
            log_probs = jax.nn.log_softmax(logits(x, level))
            return jnp.sum(pick(log_probs, y)), entropy_factor(log_probs, floor)

        prediction, memory = denoise(x_t, level, memory)
        gradient, factor = jax.grad(value, has_aux=True)(x_t)
        return add_gradient(prediction, align(scale * factor, x_t) * gradient), memory

    return denoise._replace(call=guided)


class EntropyGuidance(Guidance):
    """Classifier guidance whose scale grows where the classifier is sure.

    Attributes:
      scale: s.
      floor: the least entropy in nats, above 0; the factor is at most log K/floor, 691 for 1,000 classes.
      logits: (x_t, level) → [B, K], differentiable; by default those of the noise-aware classifier.
    """

    scale: Number = option(default=1.0, per_image=True)
    floor: Number = option(default=0.01, least=1e-6)
    logits: LogProb | None = static(default=None)
    asks_once: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        return ('y',) if self.logits else ('logits', 'y')

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return entropy_guidance(denoise, self.logits or models.logits, models.y, self.scale, self.floor)
