"""Weighted populations of images: resampling, and potentials that reward particles on their way.

A batch [B] consists of B/P populations of P particles each, one after the other.

Resampling (Douc, Cappé & Moulines, cs/0507025, sections 2.1 and 2.4): a scheme maps log-weights [..., P] and
uniform numbers in [0, 1) to ancestors, int32 [..., P]: particle j is replaced by particle ancestors[j] of its
population. Particle i is chosen P·w_i times on average, and never if its weight is 0.

Potentials (FK steering, 2501.06848, section 3.2) make a weight of r_t = s·log p(y|x_t), or of λ·r(x̂_0):

    difference    log G_t = r_t − r_{t+1}        its sum is r_t; with a proposal this is TDS (2306.17775)
    max           log G_t = max_{s≥t} r_s        keeps particles that were good once
    sum           log G_t = Σ_{s≥t} r_s          keeps those that were good for long

The last potential is r_0(x_0) minus the sum of the lineage's others, so all have the same target: r_t before
the last decides only which particles are kept.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.parts import Number


class Resampled(NamedTuple):
    """All [B].

    Attributes:
      ancestors: int32, within the population; each particle's own index where nothing was resampled.
      log_weight: the logarithm of the population's mean weight where it was resampled, so no weight is lost.
      ess: the effective sample size of the population before it.
    """

    ancestors: Array
    log_weight: Array
    ess: Array


def log_mean_exp(log_weights: Array) -> Array:
    """log of the mean weight, [..., P] → [...]."""
    return jax.nn.logsumexp(log_weights, axis=-1) - jnp.log(log_weights.shape[-1])


def effective_sample_size(log_weights: Array) -> Array:
    """(Σ w)² / Σ w², from 1 to P; [..., P] → [...]."""
    return 1 / jnp.sum(jax.nn.softmax(log_weights, axis=-1) ** 2, axis=-1)


def systematic(log_weights: Array, uniforms: Array) -> Array:
    """One number u for a population, its first: the ancestors are at (u + j)/P, j = 0 … P−1."""
    particles = log_weights.shape[-1]
    return _at(log_weights, (uniforms[..., :1] + jnp.arange(particles)) / particles)


def multinomial(log_weights: Array, uniforms: Array) -> Array:
    """Independent ancestors, one number for each; more random than `systematic`."""
    return _at(log_weights, uniforms)


RESAMPLING = {'systematic': systematic, 'multinomial': multinomial}


def resample(
    log_weight: Array, uniforms: Array, particles: int, threshold: Number, scheme: str = 'systematic'
) -> Resampled:
    """Resamples the populations whose effective sample size is below threshold·P; all at threshold 1.

    log_weight, uniforms: [B].
    """
    weights = log_weight.reshape(-1, particles)
    size = effective_sample_size(weights)[:, None]
    chosen = RESAMPLING[scheme](weights, uniforms.reshape(-1, particles))
    acts = (size < threshold * particles) | jnp.asarray(threshold >= 1)
    ancestors = jnp.where(acts, chosen, jnp.arange(particles, dtype=jnp.int32))
    following = jnp.where(acts, log_mean_exp(weights)[:, None], weights)
    return Resampled(ancestors.ravel(), following.ravel(), jnp.broadcast_to(size, weights.shape).ravel())


def take(tree: Any, ancestors: Array, particles: int) -> Any:
    """Every array [B, …] of a pytree, with each row replaced by its ancestor's; other leaves are kept."""

    def chosen(leaf: Array) -> Array:
        if leaf.shape[:1] != ancestors.shape:
            return leaf
        rows = leaf.reshape(-1, particles, *leaf.shape[1:])
        picked = jax.vmap(lambda row, index: row[index])(rows, ancestors.reshape(-1, particles))
        return picked.reshape(leaf.shape)

    return jax.tree.map(chosen, tree)


def _at(log_weights: Array, positions: Array) -> Array:
    """The particles at these positions of the cumulated weights, which end at 1."""
    total = jnp.cumsum(jax.nn.softmax(log_weights, axis=-1), axis=-1)
    total = total / total[..., -1:]
    positions = jnp.minimum(positions, 1 - jnp.finfo(positions.dtype).epsneg)  # rounding can reach 1
    search = jnp.vectorize(functools.partial(jnp.searchsorted, side='right'), signature='(p),(q)->(q)')
    found = search(total, positions)
    return jnp.minimum(found, total.shape[-1] - 1).astype(jnp.int32)  # weights that are not finite


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
