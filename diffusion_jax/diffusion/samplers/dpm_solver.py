"""DPM-Solver++ (2211.01095): the ODE or SDE in λ = log(alpha/sigma).

Multistep (Algorithm 2 and section 5): x̂_0 is interpolated through its last values.

    x' = sigma'/sigma·e^{−ηh}·x + alpha'·∫ e^{−(H−u)}·x̂_0(u) du + sigma'·√(1 − e^{−2ηh})·noise
    h = λ' − λ,  H = (1 + η)·h,  u from 0 to H

η = 0 is the ODE, η = 1 the reverse SDE of the process.

Singlestep (Algorithm 1; the third order as in DPM-Solver, 2206.00927): each step evaluates inside of itself,
at λ + r·h, and needs nothing from the steps before it.

    x(r) = sigma_r/sigma·x + alpha_r·(1 − e^{−rh})·x̂_0 + …
    2S:  x' = sigma'/sigma·x + alpha'·(1 − e^{−h})·(x̂_0 + (x̂_0(r_1) − x̂_0)/(2·r_1))
    3S:  x' = sigma'/sigma·x + alpha'·((1 − e^{−h})·x̂_0 + M_1(h)·(x̂_0(r_2) − x̂_0)/r_2)

with M_1(h) = 1 − (1 − e^{−h})/h. The last step, to the clean image, is of first order, which is DDIM.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Transition, align, is_last
from diffusion_jax.diffusion.samplers.loop import Image, Noise, Sampler
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
