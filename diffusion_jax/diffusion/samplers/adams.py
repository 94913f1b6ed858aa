"""Adams and Bashforth's multistep methods in σ = sigma/alpha, where the ODE is dx̄/dσ = ε̂ and x̄ = x/alpha.

    x̄' = x̄ + (σ' − σ)·Σ_j w_j·ε̂_j,  over the last estimates of eps

One evaluation a step; the first steps are of lower order, and the last one, to the clean image, of the first.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Number, option
from diffusion_jax.diffusion.process import Transition, align, is_last
from diffusion_jax.diffusion.samplers.loop import Noise, Sampler
from diffusion_jax.diffusion.samplers.multistep import (
    History,
    combine,
    empty,
    nonzero,
    push,
    relative,
    weights,
)

# On equal steps, by order.
EQUAL_STEPS = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class AdamsBashforth(Sampler):
    """The polynomial in σ through the last estimates, integrated exactly on any grid.

    It is ρAB-DEIS of 2204.13902. diff-sampler's `ipndm_v`, which is meant to be the same, is not: its
    coefficients of the third and fourth order are wrong.

    Attributes:
      max_order: the number of estimates that are interpolated.
    """

    max_order: Number = option(default=4, least=1, most=4, whole=True)
    order: ClassVar[int | None] = 4

    def init(self, x_T: Array) -> History:
        return empty(x_T, 4)

    def step(
        self, denoise: Denoiser, state: History, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[History, Any]:
        here, there = transition.level, transition.next
        prediction, memory = denoise(state.x, here, memory)
        history = push(state, prediction.eps, here.edm_sigma)
        count = jnp.where(is_last(transition), 1, jnp.minimum(history.length, self.max_order))
        length = there.edm_sigma - here.edm_sigma
        slope = combine(self._weights(history, count, length), history.values)
        here, there, length = align((here, there, length), state.x)
        return history._replace(x=there.alpha * (state.x / here.alpha + length * slope)), memory

    def _weights(self, history: History, count: Array, length: Array) -> Array:
        nodes = relative(history.nodes, history.length, nonzero(length))
        return weights(nodes, count, 1 / (1 + jnp.arange(len(nodes), dtype=length.dtype)))


class IPNDM(AdamsBashforth):
    """iPNDM (2202.09778, 2204.13902): the weights of equal steps on every grid.

    With constant weights the order is 2 where the steps are not equal, whatever `max_order` is. A few steps
    on a suitable grid are nevertheless accurate.
    """

    order: ClassVar[int | None] = 2

    def _weights(self, history: History, count: Array, length: Array) -> Array:
        return jnp.asarray(EQUAL_STEPS, length.dtype)[count - 1]
