"""UniPC (2302.04867): multistep DPM-Solver++ with a corrector that costs no evaluation.

At each level the estimate x̂_0 is computed at the predicted x. With it, the step that led there is repeated,
now of one order more (UniC); the next step starts from the corrected x (UniP, Algorithms 5 and 6). The last
step, to the clean image, is of first order. The equations of the steps are those of DPM-Solver++.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Level, Transition, align, is_last
from diffusion_jax.diffusion.samplers.loop import Noise, Sampler
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


class Predicted(NamedTuple):
    """The predicted x, and what its correction needs.

    Attributes:
      last: the corrected x at the last level, and the estimates up to there.
      level: the last level.
      order: int32 [], that of the last prediction.
    """

    x: Array
    last: History
    level: Level
    order: Array


class UniPC(Sampler):
    """UniPC with B(h) = e^h − 1, called bh2: one evaluation a step; deterministic.

    Attributes:
      max_order: of the predictor; with the corrector the order of convergence is higher by one.
    """

    max_order: Number = option(default=3, least=1, most=3, whole=True)
    order: ClassVar[int | None] = 4

    def init(self, x_T: Array) -> Predicted:
        one = jnp.ones((), x_T.dtype)
        return Predicted(x_T, empty(x_T, 3), Level(one, one, one), jnp.int32(0))

    def step(
        self, denoise: Denoiser, state: Predicted, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Predicted, Any]:
        here = transition.level
        prediction, memory = denoise(state.x, here, memory)
        corrected = self._corrected(state, prediction.x_0, here)
        history = push(state.last._replace(x=corrected), prediction.x_0, half_log_snr(here))
        order = jnp.where(is_last(transition), 1, jnp.minimum(history.length, self.max_order))
        h = half_log_snr(transition.next) - history.nodes[0]
        nodes = relative(history.nodes, history.length, nonzero(h))
        x = self._moved(history.x, (here, transition.next), h, nodes, history.values, order)
        return Predicted(x, history, here, order.astype(jnp.int32)), memory

    def _corrected(self, state: Predicted, x_0: Array, here: Level) -> Array:
        history = state.last
        h = half_log_snr(here) - history.nodes[0]
        nodes = relative(history.nodes, history.length, nonzero(h))
        nodes, values = _inserted(nodes, jnp.ones_like(h)), _inserted(history.values, x_0)
        arguments = (state.level, here), h, nodes, values, state.order + 1
        nothing = (state.order == 0) | (h == 0)
        return jnp.where(nothing, state.x, self._moved(history.x, *arguments))

    def _moved(
        self, x: Array, levels: tuple[Level, Level], h: Array, nodes: Array, values: Array, count: Array
    ) -> Array:
        """x at the second level, by interpolation of the first `count` values."""
        here, there = levels
        moments = exponential_moments(h, len(nodes))
        # In two estimates the paper has 1/2 for the coefficient, and does not solve for it.
        moments = moments.at[1].set(jnp.where(count == 2, 0.5 * self._b(h), moments[1]))
        total = combine(there.alpha * weights(nodes, count, moments), values)
        return align(there.sigma / here.sigma, x) * x + total

    def _b(self, h: Array) -> Array:
        """B(h)·e^{−h} of the paper, for x̂_0."""
        return -jnp.expm1(-h)


class UniPCBH1(UniPC):
    """UniPC with B(h) = h, called bh1."""

    def _b(self, h: Array) -> Array:
        return h


def _inserted(array: Array, new: Array) -> Array:
    """The array with another first-axis entry after the first."""
    return jnp.concatenate([array[:1], new[None], array[1:]])
