"""What multistep samplers share: the last estimates of a denoiser, and integrals of their interpolation.

A sampler of this kind integrates the polynomial through estimates f_j at nodes u_j (Newton's form). The integral
over a step is Σ_j w_j·f_j; its weights depend on the nodes alone and are computed in every step, so any grid
may be used. With few estimates, as after the start, the degree is lower.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.parts import Number
from diffusion_jax.diffusion.process import Level, align


class History(NamedTuple):
    """x and the last k estimates, the newest first.

    Attributes:
      values, nodes: [k, B, H, W, C], [k].
      length: int32 [], the number of estimates so far, at most k.
    """

    x: Array
    values: Array
    nodes: Array
    length: Array


def empty(x: Array, size: int) -> History:
    """The history before the first step."""
    return History(x, jnp.zeros((size, *x.shape), x.dtype), jnp.zeros(size, x.dtype), jnp.int32(0))


def push(history: History, value: Array, node: Array) -> History:
    """Adds an estimate; one at the same node as the last replaces it, so nodes stay distinct."""
    repeated = (history.length > 0) & (history.nodes[0] == node)

    def shifted(old: Array, new: Any) -> Array:
        return jnp.concatenate([jnp.asarray(new, old.dtype)[None], jnp.where(repeated, old[1:], old[:-1])])

    return history._replace(
        values=shifted(history.values, value),
        nodes=shifted(history.nodes, node),
        length=jnp.where(repeated, history.length, jnp.minimum(history.length + 1, len(history.nodes))),
    )


def combine(weights: Array, values: Array) -> Array:
    """Σ_j weights_j·values_j; weights: [k], values: [k, B, H, W, C]."""
    return jnp.sum(align(weights, values) * values, axis=0)


def weights(nodes: list[Any], count: Number, moments: list[Any]) -> Array:
    """w [k] such that Σ_j w_j·p(nodes_j) is the integral of every polynomial p of degree < count.

    Args:
      nodes: k distinct numbers, of which the first `count` are used.
      moments: the integrals of 1, u, …, u^{k−1}.
    """
    total = [jnp.zeros_like(jnp.asarray(moments[0])) for _ in nodes]
    basis: list[Any] = [1.0]  # coefficients of Π_{i<m} (u − nodes_i), the constant first
    for m, node in enumerate(nodes):
        integral = sum(c * moment for c, moment in zip(basis, moments, strict=False))
        for j in range(m + 1):
            product = 1.0
            for i in range(m + 1):
                product = product * (nodes[j] - nodes[i]) if i != j else product
            total[j] = total[j] + jnp.where(m < count, integral / product, 0.0)
        raised, lowered = [0.0, *basis], [*(-node * c for c in basis), 0.0]
        basis = [a + b for a, b in zip(raised, lowered, strict=True)]
    return jnp.stack(total)


def relative(nodes: Array, count: Array, length: Array) -> list[Any]:
    """(nodes − nodes_0)/length; those beyond `count` are 2, 3, …, distinct from all others and from 1.

    length: of the step, which leads away from the nodes before it; not 0.
    """
    return [jnp.where(j < count, (nodes[j] - nodes[0]) / length, j + 1.0) for j in range(len(nodes))]


def exponential_moments(rate: Array, number: int) -> list[Array]:
    """M_i, the integrals of H·e^{−H(1−s)}·s^i over s from 0 to 1, i < number; rate: H.

    M_0 = 1 − e^{−H} and M_i = 1 − i·M_{i−1}/H, by parts; near 0 the power series, which keeps its digits.
    """
    found, small = [-jnp.expm1(-rate)], jnp.abs(rate) < 1
    divisor, bounded = jnp.where(small, 1.0, rate), jnp.where(small, rate, 0.0)
    for i in range(1, number):
        series = jnp.zeros_like(rate)
        for n in reversed(range(17)):
            series = series * -bounded + math.factorial(i) / math.factorial(n + i + 1)
        found.append(jnp.where(small, bounded * series, 1 - i * found[-1] / divisor))
    return found


def half_log_snr(level: Level) -> Array:
    """λ = log(alpha/sigma); for the clean image finite, and so large that e^{−h} is 0."""
    return jnp.log(level.alpha) - jnp.log(jnp.maximum(level.sigma, 1e-30))


def nonzero(length: Array) -> Array:
    """The length; 1 where it is 0."""
    return jnp.where(length == 0, 1.0, length)
