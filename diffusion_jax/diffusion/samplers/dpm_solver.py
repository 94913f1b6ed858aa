"""DPM-Solver++ 2M (2211.01095, Algorithm 2): the ODE in λ = log(alpha/sigma), of second order by two steps.

    x' = sigma'/sigma·x − alpha'·(e^{−h} − 1)·D,  h = λ' − λ
    D = x̂_0 + (x̂_0 − last x̂_0)/(2r),  r = (last h)/h

The first step and the last one, to the clean image, are of first order: D = x̂_0, which is DDIM.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.process import Level, Transition, align, is_last
from diffusion_jax.diffusion.samplers.sampler import Noise, Sampler


class History(NamedTuple):
    """x, the last x̂_0, and the last h: 0 before the first step."""

    x: Array
    x_0: Array
    h: Array


class DPMSolverPP2M(Sampler):
    """DPM-Solver++ 2M: one evaluation a step; deterministic."""

    order: ClassVar[int | None] = 2

    def init(self, x_T: Array) -> History:
        return History(x_T, x_T, jnp.zeros((), x_T.dtype))

    def step(
        self, denoise: Denoiser, state: History, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[History, Any]:
        prediction, memory = denoise(state.x, transition.level, memory)
        h = _half_log_snr(transition.next) - _half_log_snr(transition.level)
        first_order = (state.h == 0) | is_last(transition)
        ratio = jnp.where(first_order, 0.0, h / (2 * jnp.where(state.h == 0, 1.0, state.h)))
        here, there, h_, ratio = align((transition.level, transition.next, h, ratio), state.x)
        slope = prediction.x_0 + ratio * (prediction.x_0 - state.x_0)
        x = there.sigma / here.sigma * state.x - there.alpha * jnp.expm1(-h_) * slope
        return History(x, prediction.x_0, h), memory


def _half_log_snr(level: Level) -> Array:
    """log(alpha/sigma); for the clean image finite, and so large that e^{−h} is 0."""
    return jnp.log(level.alpha) - jnp.log(jnp.maximum(level.sigma, 1e-30))
