"""Potentials: how the log-probability of a particle on its way becomes a weight.

FK steering (2501.06848), section 3.2, with r_t = s·log p(y|x_t), or the reward λ·r(x̂_0):

    difference    log G_t = r_t − r_{t+1}        its sum is r_t; with a proposal this is TDS (2306.17775)
    max           log G_t = max_{s≥t} r_s        keeps particles that were good once
    sum           log G_t = Σ_{s≥t} r_s          keeps those that were good for long

The last potential is r_0(x_0) minus the sum of the lineage's others, so all have the same target: r_t before
the last decides only which particles are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Lineage(NamedTuple):
    """What is known of a particle and its ancestors; [B].

    Attributes:
      total: the sum of their log-potentials.
      running: the maximum or the sum of their log-probabilities; unused by 'difference'.
    """

    total: Array
    running: Array


def remainder(log_prob: Array, lineage: Lineage) -> Array:
    """What makes the sum of the log-potentials log_prob; 0 for a lineage whose weight is 0 already."""
    return jnp.where(jnp.isneginf(lineage.total), 0.0, log_prob - lineage.total)


def difference(log_prob: Array, lineage: Lineage) -> tuple[Array, Lineage]:
    return remainder(log_prob, lineage), lineage._replace(total=log_prob)


def maximum(log_prob: Array, lineage: Lineage) -> tuple[Array, Lineage]:
    running = jnp.maximum(lineage.running, log_prob)
    return running, Lineage(lineage.total + running, running)


def cumulative(log_prob: Array, lineage: Lineage) -> tuple[Array, Lineage]:
    running = lineage.running + log_prob
    return running, Lineage(lineage.total + running, running)


# (r_t, lineage) → log G_t, the lineage with it; and `running` before the first.
Potential = Callable[[Array, Lineage], tuple[Array, Lineage]]
POTENTIALS: dict[str, tuple[Potential, float]] = {
    'difference': (difference, 0.0),
    'max': (maximum, -jnp.inf),
    'sum': (cumulative, 0.0),
}
