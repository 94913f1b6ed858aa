"""Classifier guidance (2105.05233, section 4): tilts p(x) towards p(x)·p(y|x)^s by the classifier's gradient.

The guided prediction carries the gradient g = s·∇ log p(y|x_t), which the sampler applies:

    x_{t-1} ~ N(μ + Σ·g, Σ)                    Algorithm 1: DDPM
    ε̂ = eps − √(1−ᾱ_t)·g                       Algorithm 2 (eq. 14): `score_shift`, for every other sampler

As in the authors' release the gradient is taken at x_t, where Algorithm 1 has μ; x_0 is clipped before
guidance and not after it. Variants, each of which costs one evaluation of the classifier and its gradient:

    entropy    g = s·log K / max(H(p(·|x_t)), floor)·∇ log p(y|x_t)         EDS, 2206.11474
    mixture    g = s·∇ log Σ_k w_k·p(k|x_t)
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, add_gradient, tilt
from diffusion_jax.diffusion.guidance.guidance import Guidance, LogProbGuidance, Models
from diffusion_jax.diffusion.log_probs import with_gradient
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, align


def classifier_guidance(denoise: Denoiser, log_prob: LogProb, scale: Number) -> Denoiser:
    """Adds scale·∇ log_prob(x_t, level) to the prediction's gradient; scale: s, [] or [B]."""

    def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, memory = denoise(x_t, level, memory)
        value, gradient = with_gradient(log_prob, x_t, level)
        return add_gradient(prediction, align(scale, x_t) * gradient, scale * value), memory

    return denoise._replace(call=guided, log_prob=tilt(denoise, log_prob, scale))


def pick(values: Array, y: Array) -> Array:
    """The values [B, K] of the classes y [B]."""
    return jnp.take_along_axis(values, y[:, None], axis=1)[:, 0]


def entropy_factor(log_probs: Array, floor: Number) -> Array:
    """log K / max(H, floor), [B], from normalized log-probabilities [B, K]; it has no gradient."""
    log_probs = jax.lax.stop_gradient(log_probs)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return math.log(log_probs.shape[-1]) / jnp.maximum(entropy, floor)


def log_mixture(logits: Array, weights: Array) -> Array:
    """log Σ_k w_k·p_k, [B], from logits [B, K] and w ≥ 0, [K] or [B, K], of which one is above 0."""
    chosen = jnp.where(weights > 0, jnp.log(jnp.where(weights > 0, weights, 1.0)), -jnp.inf)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + chosen, axis=-1)


class ClassifierGuidance(LogProbGuidance):
    """Guidance by the gradient of log p(y|x_t).

    Attributes:
      scale: s of the gradient.
      log_prob: (x_t, level) → [B], differentiable; by default that of the noise-aware classifier.
    """

    asks_once: ClassVar[bool] = True

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return classifier_guidance(denoise, self.log_prob or models.log_prob, self.scale)


class EntropyGuidance(Guidance):
    """Classifier guidance whose scale grows where the classifier is sure, since there its gradient vanishes.

    H is the entropy of the classifier's K probabilities, in nats. The factor is one number for each image, 1
    where all classes are equally likely.

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
        logits, y = self.logits or models.logits, models.y

        def log_prob(x: Array, level: Level) -> Array:
            return pick(jax.nn.log_softmax(logits(x, level)), y)

        def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            def total(x: Array) -> tuple[Array, tuple[Array, Array]]:
                log_probs = jax.nn.log_softmax(logits(x, level))
                value = pick(log_probs, y)
                return jnp.sum(value), (value, entropy_factor(log_probs, self.floor))

            prediction, memory = denoise(x_t, level, memory)
            gradient, (value, factor) = jax.grad(total, has_aux=True)(x_t)
            gradient = align(self.scale * factor, x_t) * gradient
            return add_gradient(prediction, gradient, self.scale * value), memory

        # As a proposal of sequential Monte Carlo its target is that of classifier guidance.
        return denoise._replace(call=guided, log_prob=tilt(denoise, log_prob, self.scale))


class MixtureGuidance(Guidance):
    """Classifier guidance towards several classes; y is not used.

    w_k is the likelihood of the wish given class k; a factor common to all w changes nothing.

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
