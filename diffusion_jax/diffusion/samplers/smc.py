"""Sequential Monte Carlo: corrects guidance by weights, so that it samples p(x)·p(y|x)^s.

The twisted diffusion sampler (2306.17775, Algorithm 1) and FK steering (2501.06848, Algorithm 1). At a level,
with log-weights W of P particles:

    W += log G_t                         from r_t = s·log p(y|x_t) of the guidance; see `diffusion.particles`
    resample, if ESS < threshold·P       each particle takes the state and the memory of its ancestor
    x_{t-1} ~ q = N(μ + Σ·g, Σ)          g = s·∇ log p(y|x_t)
    W += log p(x_{t-1}|x_t) − log q      p = N(μ, Σ), the chain without the gradient

and at the end W += s·log p(y|x_0) − Σ_t log G_t. TDS moves the mean by the coefficient of x̂_0 times
(1−ᾱ)/√ᾱ·g; Σ·g is that of classifier guidance. Both have the same target: the law of x_0 of the chain without
the gradient, in these steps, times p(y|x_0)^s. Guidance that changes x̂_0 itself, such as classifier-free
guidance, belongs to the chain.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.particles import (
    POTENTIALS,
    RESAMPLING,
    Lineage,
    Resampled,
    remainder,
    resample,
    take,
)
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Prediction, Transition, is_last
from diffusion_jax.diffusion.samplers.ddpm import DDPM, ancestral_kernel
from diffusion_jax.diffusion.samplers.loop import Noise, Sampler


class Particles(NamedTuple):
    """The state of `SMC`; all but x are [B], and of one population ancestors are within it, ess is equal.

    Attributes:
      x: [B, H, W, C].
      log_weight: with the weights before all resamplings: exp(log_weight)/P is an unbiased estimate of
        ∫ p(x)·p(y|x)^s when summed over a population.
      ancestors: int32, of the last resampling.
      ess: the effective sample size before it.
      lineage: see `diffusion.particles`.
      steps: int32 [], done.
    """

    x: Array
    log_weight: Array
    ancestors: Array
    ess: Array
    lineage: Lineage
    steps: Array


class SMC(Sampler):
    """Populations of particles that are weighted by the guidance's log-probability, and resampled.

    A step costs one evaluation of the guided denoiser for each particle; the weights cost nothing, since the
    log-probability and its gradient come from one evaluation. Particles of one population must have one
    label and one scale. They are not independent: those of a population depend on the seed and on the index
    of its first image.

    Attributes:
      particles: P ≥ 2, consecutive images of the batch, whose size must be a multiple of it.
      threshold: a population is resampled if its effective sample size is below threshold·P; 1 always,
        0 never.
      every: k of the levels at which particles are weighed and resampled. 'max' and 'sum' reward a particle
        each time, so that their weights degenerate if that is often.
      potential: 'difference', 'max' or 'sum'; see `diffusion.particles`.
      resampling: 'systematic' or 'multinomial'.
      unweighted: resamples once more at the end; then all weights of a population are equal.
    """

    particles: int = static(default=16, values=2)
    threshold: Number = option(default=1.0, most=1.0)
    every: Number = option(default=1, least=1, whole=True)
    potential: str = static(default='difference', values=tuple(POTENTIALS))
    resampling: str = static(default='systematic', values=tuple(RESAMPLING))
    unweighted: bool = static(default=False, values=(False, True))
    shifts_mean: ClassVar[bool] = True

    @property
    def population(self) -> int:
        return self.particles

    def unguided(self) -> Sampler:
        return DDPM()

    def init(self, x_T: Array) -> Particles:
        zeros = jnp.zeros(len(x_T), x_T.dtype)
        lineage = Lineage(zeros, zeros + POTENTIALS[self.potential][1])
        own = jnp.arange(len(x_T), dtype=jnp.int32) % self.particles
        return Particles(x_T, zeros, own, zeros + self.particles, lineage, jnp.zeros((), jnp.int32))

    def step(
        self, denoise: Denoiser, state: Particles, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Particles, Any]:
        memory = take(memory, state.ancestors, self.particles)  # which the step before left as it was
        prediction, memory = denoise(state.x, transition.level, memory)
        if denoise.log_prob is None and prediction.gradient is not None:
            raise TypeError('SMC needs the log-probabilities of guidances, and got only a gradient')
        acts = (state.steps + 1) % self.every == 0
        log_weight, lineage = self._weigh(prediction, state, acts)
        threshold = jnp.where(acts, self.threshold, 0.0)
        ancestors, log_weight, ess = self._resample(log_weight, noise(1), threshold)
        x, prediction, lineage = take((state.x, prediction, lineage), ancestors, self.particles)
        x, log_ratio = propose(prediction, x, transition, denoise.variance, noise(0))
        log_weight += log_ratio + _last_potential(denoise, x, transition, lineage)
        if self.unweighted:
            threshold = jnp.where(is_last(transition), 1.0, 0.0)
            again, log_weight, _ = self._resample(log_weight, noise(2), threshold)
            x, ancestors, lineage = take((x, ancestors, lineage), again, self.particles)
        return Particles(x, log_weight, ancestors, ess, lineage, state.steps + 1), memory

    def _weigh(self, prediction: Prediction, state: Particles, acts: Array) -> tuple[Array, Lineage]:
        """The log-weights with the potential of this level, and the lineages with it, where it acts."""
        old = state.log_weight, state.lineage
        if prediction.log_prob is None:
            return old
        log_prob = prediction.log_prob.astype(state.log_weight.dtype)
        log_potential, lineage = POTENTIALS[self.potential][0](log_prob, state.lineage)
        new = state.log_weight + log_potential, lineage
        return jax.tree.map(lambda before, after: jnp.where(acts, after, before), old, new)

    def _resample(self, log_weight: Array, noise: Array, threshold: Number) -> Resampled:
        uniforms = ndtr(noise.reshape(len(noise), -1)[:, 0])
        return resample(log_weight, uniforms, self.particles, threshold, self.resampling)


def propose(
    prediction: Prediction, x_t: Array, transition: Transition, variance: str, noise: Array
) -> tuple[Array, Array]:
    """x_{t-1} = μ + Σ·g + √Σ·noise, and log p(x_{t-1}|x_t) − log q(x_{t-1}|x_t), [B].

    At the last transition Σ = 0, so x_0 = μ and the ratio is 1. variance: see `posterior`.
    """
    kernel = ancestral_kernel(prediction._replace(gradient=None), x_t, transition, variance)
    x = kernel.draw(noise)
    if prediction.gradient is None:
        return x, jnp.zeros(len(x), x.dtype)
    shift = jnp.sqrt(kernel.variance) * prediction.gradient  # in standard deviations
    log_ratio = -jnp.sum(shift * noise + shift**2 / 2, axis=tuple(range(1, x.ndim)))
    return x + kernel.variance * prediction.gradient, log_ratio


def _last_potential(denoise: Denoiser, x_0: Array, transition: Transition, lineage: Lineage) -> Array:
    """s·log p(y|x_0) minus the log-potentials before it, [B]; 0 if the transition is not the last."""
    log_prob = denoise.log_prob
    if log_prob is None:
        return jnp.zeros_like(lineage.total)

    def exact(x_0: Array) -> Array:
        return remainder(log_prob(x_0, transition.next), lineage).astype(lineage.total.dtype)

    return jax.lax.cond(is_last(transition), exact, lambda x_0: jnp.zeros_like(lineage.total), x_0)
