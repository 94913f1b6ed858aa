"""Guidances whose scale is a function of the noise level."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.guidance.modifiers import Modifier
from diffusion_jax.diffusion.parts import Number, option, options, static
from diffusion_jax.diffusion.process import Level, Prediction


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
