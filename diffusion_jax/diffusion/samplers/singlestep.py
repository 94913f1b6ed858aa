"""DPM-Solver++, singlestep (2211.01095, Algorithm 1; the third order as in DPM-Solver, 2206.00927).

Each step evaluates inside of itself, at λ + r·h, and needs nothing from the steps before it:

    x(r) = sigma_r/sigma·x + alpha_r·(1 − e^{−rh})·x̂_0 + …,  h = λ' − λ
    2S:  x' = sigma'/sigma·x + alpha'·(1 − e^{−h})·(x̂_0 + (x̂_0(r_1) − x̂_0)/(2·r_1))
    3S:  x' = sigma'/sigma·x + alpha'·((1 − e^{−h})·x̂_0 + M_1(h)·(x̂_0(r_2) − x̂_0)/r_2)

M_1(h) = 1 − (1 − e^{−h})/h. The last step, to the clean image, is DDIM's and needs one evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Transition, align
from diffusion_jax.diffusion.samplers.multistep import exponential_moments, half_log_snr, nonzero
from diffusion_jax.diffusion.samplers.sampler import Image, Noise, Sampler


class DPMSolverPP2S(Sampler):
    """DPM-Solver++ 2S: two evaluations a step, of second order; deterministic.

    Attributes:
      r1: where the second evaluation is, as a part of the step in λ.
    """

    r1: Number = option(default=0.5, least=1e-3, most=1.0)
    evaluations: ClassVar[int] = 2
    order: ClassVar[int | None] = 2

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        x, here, there = state.x, transition.level, transition.next
        first, memory = denoise(x, here, memory)
        h = half_log_snr(there) - half_log_snr(here)

        def inside(memory: Any) -> tuple[Array, Any]:
            return self._inside(denoise, x, first.x_0, here, h, memory)

        change, memory = jax.lax.cond(
            there.sigma > 0, inside, lambda memory: (jnp.zeros_like(x), memory), memory
        )
        return Image(_moved(x, first.x_0, here, there, h, change)), memory

    def _inside(
        self, denoise: Denoiser, x: Array, x_0: Array, here: Level, h: Array, memory: Any
    ) -> tuple[Array, Any]:
        """What the evaluations inside of the step add to the integral of x̂_0."""
        change, memory = _evaluated(denoise, x, x_0, here, h, self.r1, lambda length: 0.0, memory)
        return align(-0.5 * jnp.expm1(-h), x) * change, memory


class DPMSolverPP3S(DPMSolverPP2S):
    """DPM-Solver++ 3S: three evaluations a step, of third order; deterministic.

    Attributes:
      r1, r2: where the second and the third evaluation are, as parts of the step in λ.
    """

    r1: Number = option(default=1 / 3, least=1e-3, most=1.0)
    r2: Number = option(default=2 / 3, least=1e-3, most=1.0)
    evaluations: ClassVar[int] = 3
    order: ClassVar[int | None] = 3

    def _inside(
        self, denoise: Denoiser, x: Array, x_0: Array, here: Level, h: Array, memory: Any
    ) -> tuple[Array, Any]:
        change, memory = _evaluated(denoise, x, x_0, here, h, self.r1, lambda length: 0.0, memory)

        def slope(length: Array) -> Array:
            factor = length / nonzero(h) * exponential_moments(length, 2)[1]
            return align(factor, x) * change

        change, memory = _evaluated(denoise, x, x_0, here, h, self.r2, slope, memory)
        return align(exponential_moments(h, 2)[1], x) * change, memory


def _evaluated(
    denoise: Denoiser,
    x: Array,
    x_0: Array,
    here: Level,
    h: Array,
    r: Number,
    more: Callable[[Array], Any],
    memory: Any,
) -> tuple[Array, Any]:
    """(x̂_0(r) − x̂_0)/r at the level next to λ + r·h; 0 if that is the level of the start."""
    inner = denoise.level_at(2 * (half_log_snr(here) + r * h))
    length = half_log_snr(inner) - half_log_snr(here)
    prediction, memory = denoise(_moved(x, x_0, here, inner, length, more(length)), inner, memory)
    inverse = jnp.where(length == 0, 0.0, h / nonzero(length))
    return align(inverse, x) * (prediction.x_0 - x_0), memory


def _moved(x: Array, x_0: Array, here: Level, there: Level, h: Array, change: Any) -> Array:
    """sigma'/sigma·x + alpha'·((1 − e^{−h})·x̂_0 + change)."""
    here, there, h = align((here, there, h), x)
    return there.sigma / here.sigma * x + there.alpha * (change - jnp.expm1(-h) * x_0)
