"""DPM-Solver++, multistep (2211.01095, Algorithm 2 and section 5): the ODE or SDE in λ = log(alpha/sigma).

    x' = sigma'/sigma·e^{−ηh}·x + alpha'·∫ e^{−(H−u)}·x̂_0(u) du + sigma'·√(1 − e^{−2ηh})·noise
    h = λ' − λ,  H = (1 + η)·h,  u from 0 to H

η = 0 is the ODE, η = 1 the reverse SDE of the process. x̂_0 is interpolated through its last values. The last
step, to the clean image, is of first order, which is DDIM.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Transition, align, is_last
from diffusion_jax.diffusion.samplers.multistep import (
    History,
    combine,
    empty,
    exponential_moments,
    half_log_snr,
    nonzero,
    push,
    relative,
    weights,
)
from diffusion_jax.diffusion.samplers.sampler import Noise, Sampler


class Last(NamedTuple):
    """x, the last x̂_0, and the last h: 0 before the first step."""

    x: Array
    x_0: Array
    h: Array


class DPMSolverPP2M(Sampler):
    """DPM-Solver++ 2M: one evaluation a step; deterministic.

    The integral is (1 − e^{−h})·D, D = x̂_0 + (x̂_0 − last x̂_0)/(2r), r = (last h)/h, as by the midpoint rule.
    """

    order: ClassVar[int | None] = 2

    def init(self, x_T: Array) -> Last:
        return Last(x_T, x_T, jnp.zeros((), x_T.dtype))

    def step(
        self, denoise: Denoiser, state: Last, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Last, Any]:
        prediction, memory = denoise(state.x, transition.level, memory)
        h = half_log_snr(transition.next) - half_log_snr(transition.level)
        first_order = (state.h == 0) | is_last(transition)
        ratio = jnp.where(first_order, 0.0, h / (2 * jnp.where(state.h == 0, 1.0, state.h)))
        slope = prediction.x_0 + align(ratio, state.x) * (prediction.x_0 - state.x_0)
        return Last(self._moved(state.x, slope, transition, h, noise), prediction.x_0, h), memory

    def _moved(self, x: Array, slope: Array, transition: Transition, h: Array, noise: Noise) -> Array:
        here, there, h = align((transition.level, transition.next, h), x)
        return there.sigma / here.sigma * x - there.alpha * jnp.expm1(-h) * slope


class DPMSolverPP2MSDE(DPMSolverPP2M):
    """DPM-Solver++ 2M for the SDE: one evaluation a step.

    Attributes:
      eta: η; 0 is 2M, 1 the reverse SDE.
    """

    eta: Number = option(default=1.0)
    order: ClassVar[int | None] = None

    def _moved(self, x: Array, slope: Array, transition: Transition, h: Array, noise: Noise) -> Array:
        kept, spread = _kept_and_spread(transition, h, self.eta)
        gain = -transition.next.alpha * jnp.expm1(-(1 + self.eta) * h)
        kept, spread, gain = align((kept, spread, gain), x)
        return kept * x + gain * slope + spread * noise(0)


class DPMSolverPP3M(Sampler):
    """DPM-Solver++ 3M: one evaluation a step; deterministic, of third order.

    The integral of the parabola is exact. The authors' release and others halve its quadratic term, which
    makes the method one of second order.

    Attributes:
      max_order: the number of estimates that are interpolated; with 2 it is the Taylor form of 2M.
    """

    max_order: Number = option(default=3, least=1, most=3, whole=True)
    order: ClassVar[int | None] = 3

    def init(self, x_T: Array) -> History:
        return empty(x_T, 3)

    def step(
        self, denoise: Denoiser, state: History, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[History, Any]:
        prediction, memory = denoise(state.x, transition.level, memory)
        history = push(state, prediction.x_0, half_log_snr(transition.level))
        return history._replace(x=self._moved(history, transition, noise)), memory

    def _moved(self, history: History, transition: Transition, noise: Noise) -> Array:
        return self._integrated(history, transition)[0]

    def _integrated(self, history: History, transition: Transition, eta: Number = 0.0) -> tuple[Array, Array]:
        """The mean and the standard deviation of x after a transition from the newest estimate."""
        h = half_log_snr(transition.next) - history.nodes[0]
        count = jnp.where(is_last(transition), 1, jnp.minimum(history.length, self.max_order))
        nodes = relative(history.nodes, history.length, nonzero(h))
        w = weights(nodes, count, exponential_moments((1 + eta) * h, len(nodes)))
        kept, spread = align(_kept_and_spread(transition, h, eta), history.x)
        return kept * history.x + combine(transition.next.alpha * w, history.values), spread


class DPMSolverPP3MSDE(DPMSolverPP3M):
    """DPM-Solver++ 3M for the SDE: one evaluation a step.

    Attributes:
      max_order: the number of estimates that are interpolated.
      eta: η; 0 is 3M, 1 the reverse SDE.
    """

    eta: Number = option(default=1.0)
    order: ClassVar[int | None] = None

    def _moved(self, history: History, transition: Transition, noise: Noise) -> Array:
        mean, spread = self._integrated(history, transition, self.eta)
        return mean + spread * noise(0)


def _kept_and_spread(transition: Transition, h: Array, eta: Number) -> tuple[Array, Array]:
    """The factor of x, and the standard deviation of the noise."""
    kept = transition.next.sigma / transition.level.sigma * jnp.exp(-eta * h)
    return kept, transition.next.sigma * jnp.sqrt(-jnp.expm1(-2 * eta * h))
