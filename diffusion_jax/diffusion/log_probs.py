"""Log-probabilities: with gradients, of clean images, averaged over draws, and their ascent."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import LogProb
from diffusion_jax.diffusion.parts import Number
from diffusion_jax.diffusion.process import Level, align


def of_clean_images(log_prob: LogProb) -> LogProb:
    """The log-probability of images without noise, whatever the level."""

    def clean(x_0: Array, level: Level) -> Array:
        level = Level(jnp.zeros_like(level.t), jnp.ones_like(level.alpha), jnp.zeros_like(level.sigma))
        return log_prob(x_0, level)

    return clean


def with_gradient(log_prob: LogProb, x: Array, level: Level) -> tuple[Array, Array]:
    """The log-probabilities [B] of images and their gradient, from one evaluation."""

    def total(x: Array) -> tuple[Array, Array]:
        values = log_prob(x, level)
        return jnp.sum(values), values

    gradient, values = jax.grad(total, has_aux=True)(x)
    return values, gradient


def smoothed(log_prob: LogProb, draws: Array, spread: Number) -> LogProb:
    """log mean_k exp log_prob(x_0 + spread·sigma·z_k), with sigma of the level.

    The Monte Carlo form of loss-guided diffusion (Song et al., ICML 2023) at spread 1, where spread·sigma is
    the standard deviation of x_0 given x_t for data of unit variance; TFG (2409.15761) has smaller ones.

    Args:
      draws: z_k ~ N(0, 1), [K, B, H, W, C]; the draws are evaluated one after the other.
      spread: [] or [B].
    """

    def smooth(x_0: Array, level: Level) -> Array:
        width = align(spread, x_0) * align(level.sigma, x_0)
        values = jax.lax.map(lambda z: log_prob(x_0 + width * z, level), draws)
        return jax.nn.logsumexp(values, axis=0) - math.log(len(draws))

    return smooth


def ascend(log_prob: LogProb, x_0: Array, level: Level, length: Number, steps: int) -> Array:
    """x_0 after some steps of gradient ascent, x_0 ← x_0 + length·∇ log_prob(x_0); length: [] or [B]."""

    def step(i: Array, x_0: Array) -> Array:
        return x_0 + align(length, x_0) * with_gradient(log_prob, x_0, level)[1]

    return jax.lax.fori_loop(0, steps, step, x_0)
