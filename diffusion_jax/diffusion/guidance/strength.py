"""Guidances that change how strongly another one acts: its scale at each level, or its gradient's length."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, add_gradient
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.guidance.modifiers import Modifier, apart, wrapped_memory
from diffusion_jax.diffusion.parts import Number, option, options, static
from diffusion_jax.diffusion.process import Level, Prediction, align

ADAM_EPS = 1e-8


def innermost(guidance: Guidance) -> Any:
    """The guidance inside modifiers."""
    while isinstance(guidance, Modifier):
        guidance = guidance.guidance
    return guidance


def scaled(guidance: Guidance, scale: Number) -> Guidance:
    """The guidance with this scale, if it has one."""
    if isinstance(guidance, Modifier):
        return dataclasses.replace(guidance, guidance=scaled(guidance.guidance, scale))
    return dataclasses.replace(guidance, **{'scale': scale} if 'scale' in options(guidance) else {})


class Varying(Modifier):
    """A guidance whose scale is multiplied by `factor(level)`."""

    def factor(self, level: Level) -> Number:
        raise NotImplementedError

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        scale = innermost(self.guidance).scale

        def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            guidance = scaled(self.guidance, scale * self.factor(level))
            return guidance.wrap(denoise, models)(x_t, level, memory)

        return self.guidance.wrap(denoise, models)._replace(call=call)


class Scheduled(Varying):
    """A guidance whose scale is multiplied by a function of the level.

    Attributes:
      function: level → [], at least 0.
    """

    function: Callable[[Level], Number] = static()

    def factor(self, level: Level) -> Number:
        return self.function(level)


class Ramp(Varying):
    """A guidance whose scale changes linearly with σ = √(1−ᾱ), the share of noise in x_t.

    The factor is clean + σ·(noisy − clean). Increasing schedules are published for classifier-free guidance
    (2404.13040).

    Attributes:
      noisy, clean: the factors at σ = 1 and at σ = 0.
    """

    noisy: Number = option(default=0.0)
    clean: Number = option(default=2.0)

    def factor(self, level: Level) -> Number:
        return self.clean + level.sigma * (self.noisy - self.clean)


class GradientModifier(Modifier):
    """A guidance by the gradient of another one, changed. Gradients of the guidances before it are kept.

    `change` maps (gradient, state) to both of the next evaluation; `first` makes the first state.
    """

    def first(self, x_T: Array) -> Any:
        return ()

    def change(self, gradient: Array, state: Any) -> tuple[Array, Any]:
        raise NotImplementedError

    def modify(self, guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
        inner = apart(denoise)
        guided = guide(inner)

        def changed(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            memory, state = memory
            prediction, memory = guided(x_t, level, memory)
            if prediction.gradient is None:
                raise TypeError(f'{type(self).__name__} acts on guidance by a gradient only')
            gradient, state = self.change(prediction.gradient, state)
            (_, others), _ = wrapped_memory(memory, inner, x_t)
            return add_gradient(prediction._replace(gradient=gradient), *others), (memory, state)

        return guided._replace(call=changed, init=lambda x_T: (guided.init(x_T), self.first(x_T)))


class Normalized(GradientModifier):
    """A guidance whose gradient g becomes strength·g/rms(g), per image; 0 where g is 0.

    Only g's direction is left: the scale of the guidance and the noise of its measurement no longer matter.
    strength/√(H·W·C) divides by the norm.

    Attributes:
      strength: the root of the mean square of the new gradient.
    """

    strength: Number = option(default=1.0, per_image=True)

    def change(self, gradient: Array, state: Any) -> tuple[Array, Any]:
        largest = jnp.max(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
        scaled = gradient / jnp.where(largest > 0, largest, 1.0)  # squares neither overflow nor vanish
        square = jnp.mean(scaled**2, axis=(1, 2, 3), keepdims=True)
        strength = align(self.strength, gradient)
        return strength * scaled / jnp.sqrt(jnp.where(largest > 0, square, 1.0)), state


class Adam(GradientModifier):
    """A guidance whose gradient g becomes a step of Adam, over the evaluations (2603.16797).

        m ← beta1·m + (1 − beta1)·g,  v ← beta2·v + (1 − beta2)·g²
        strength·m̂/(√v̂ + 1e-8),  m̂ = m/(1 − beta1^n),  v̂ = v/(1 − beta2^n)

    The moments are per pixel. The scale of g drops out: a pixel moves by about ±strength, whatever the scale
    of the guidance and the noise of its measurement, so that no scale samples a posterior.

    Attributes:
      strength: of the step.
      beta1, beta2: how much of the moments is kept.
    """

    strength: Number = option(default=0.1, per_image=True)
    beta1: Number = option(default=0.9, most=0.999999)
    beta2: Number = option(default=0.999, most=0.999999)

    def first(self, x_T: Array) -> Any:
        return jnp.zeros_like(x_T), jnp.zeros_like(x_T), jnp.zeros((), x_T.dtype)

    def change(self, gradient: Array, state: Any) -> tuple[Array, Any]:
        m, v, count = state
        m = self.beta1 * m + (1 - self.beta1) * gradient
        v = self.beta2 * v + (1 - self.beta2) * gradient**2
        count = count + 1
        step = m / (1 - self.beta1**count) / (jnp.sqrt(v / (1 - self.beta2**count)) + ADAM_EPS)
        return align(self.strength, gradient) * step, (m, v, count)
