"""What multistep samplers share: the last estimates of a denoiser, and integrals of their interpolation.

A sampler of this kind integrates the polynomial through estimates f_j at nodes u_j, in Newton's form. The
integral over a step is Σ_j w_j·f_j. Its weights depend on the nodes alone and are computed in every step, so
any grid may be used. With few estimates, as after the start, the degree is lower.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.diffusion.parts import Number
from diffusion_jax.diffusion.process import Level, align

TERMS = 17  # of a series in float64
# i!/(n + i + 1)!, [i, n].
COEFFICIENTS = np.array([[1 / math.perm(n + i + 1, n + 1) for n in range(TERMS)] for i in range(4)])


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


def weights(nodes: Array, count: Number, moments: Array) -> Array:
    """w [k] such that Σ_j w_j·p(nodes_j) is the integral of every polynomial p of degree < count.

    Args:
      nodes: [k], distinct; the first `count` are used.
      moments: [k], the integrals of 1, u, …, u^{k−1}.
    """
    index = jnp.arange(len(nodes))
    integrals, basis = [], jnp.zeros_like(nodes).at[0].set(1)  # of Π_{i<m} (u − nodes_i), the constant first
    for m in range(len(nodes)):
        integrals.append(jnp.sum(basis * moments))
        basis = jnp.roll(basis, 1).at[0].set(0) - nodes[m] * basis
    differences = jnp.where(index[:, None] == index, 1.0, nodes[:, None] - nodes)
    products = jnp.cumprod(differences, axis=1)  # [j, m]: Π_{i≤m, i≠j} (nodes_j − nodes_i), for j ≤ m
    used = (index[:, None] <= index) & (index < count)
    return jnp.sum(jnp.where(used, jnp.stack(integrals) / jnp.where(used, products, 1.0), 0.0), axis=1)


def relative(nodes: Array, length: Array, step: Array) -> Array:
    """(nodes − nodes_0)/step [k]; those beyond `length` are 2, 3, …, distinct from all others and from 1.

    step: from nodes_0 to the next node, away from those before it; not 0.
    """
    index = jnp.arange(len(nodes))
    return jnp.where(index < length, (nodes - nodes[0]) / step, index + 1.0)


def exponential_moments(rate: Array, number: int) -> Array:
    """M_i, the integrals of H·e^{−H(1−s)}·s^i over s from 0 to 1, [number]; rate: H.

    M_0 = 1 − e^{−H} and M_i = 1 − i·M_{i−1}/H, by parts; near 0 the power series, which keeps its digits.
    """
    small = jnp.abs(rate) < 1
    divisor, bounded = jnp.where(small, 1.0, rate), jnp.where(small, rate, 0.0)
    powers = jnp.cumprod(jnp.full(TERMS, -bounded).at[0].set(1))
    series = jnp.asarray(COEFFICIENTS[:number], powers.dtype) @ powers
    found = [-jnp.expm1(-rate)]
    for i in range(1, number):
        found.append(1 - i * found[-1] / divisor)
    return jnp.where(small, bounded * series, jnp.stack(found))


def half_log_snr(level: Level) -> Array:
    """λ = log(alpha/sigma); for the clean image finite, and so large that e^{−h} is 0."""
    return jnp.log(level.alpha) - jnp.log(jnp.maximum(level.sigma, 1e-30))


def nonzero(length: Array) -> Array:
    """The length; 1 where it is 0."""
    return jnp.where(length == 0, 1.0, length)
