"""DDIM (2010.02502): the non-Markovian sampler, and the ODE at η=0 run either way.

    x_{t-1} = √ᾱ_{t-1}·x̂_0 + √(1−ᾱ_{t-1}−σ²)·ε̂ + σ·noise                              eq. 12
    σ = η·√((1−ᾱ_{t-1})/(1−ᾱ_t))·√β_t                                                  eq. 16

With guidance x̂_0 and ε̂ are those of the shifted score (2105.05233, Algorithm 2).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.guidance import score_shift
from diffusion_jax.diffusion.process import Denoiser, Level, Transition, add_noise, align
from diffusion_jax.diffusion.schedules import row


def ddim_step(
    denoise: Denoiser, x_t: Array, transition: Transition, noise: Array, eta: Array | float
) -> Array:
    """x_{t-1} from x_t; noise ~ N(0, 1) like x_t, unused where η = 0. At η = 1 it has the variance β̃ of DDPM.

    eta: [] or [B], in [0, 1].
    """
    prediction = score_shift(denoise)(x_t, transition)
    eta, transition = align((eta, transition), x_t)
    previous = transition.previous
    sigma = eta * previous.noise / transition.level.noise * jnp.exp(0.5 * transition.log_beta)
    # Rounding can leave a negative remainder where one step spans nearly all of the noise.
    direction = jnp.sqrt(jnp.maximum(previous.noise**2 - sigma**2, 0.0))
    return previous.signal * prediction.x_0 + direction * prediction.eps + sigma * noise


def ddim_reverse_step(denoise: Denoiser, x_t: Array, transition: Transition, following: Level) -> Array:
    """From x_t to the noisier level `following`: the step of η = 0 with time reversed.

    The prediction made at x_t stands for the one at the end of the step: a round trip is exact only in the
    limit of many steps. Guidance plays no part.
    """
    prediction = denoise(x_t, transition)
    return add_noise(prediction.x_0, prediction.eps, following)


def ddim_reverse_loop(denoise: Denoiser, transitions: Transition, x_0: Array) -> Array:
    """The x_T at the noisiest level of a table [T] of transitions that DDIM with η = 0 takes back to x_0.

    x_0 is taken for x at the first level: DDIM without its last step, T−1 steps (2105.05233, appendix F).
    """
    batch = x_0.shape[:1]

    def body(x_t: Array, t: Array) -> tuple[Array, None]:
        here, there = (row(transitions, jnp.full(batch, index)) for index in (t, t + 1))
        return ddim_reverse_step(denoise, x_t, here, there.level), None

    return jax.lax.scan(body, x_0, jnp.arange(len(transitions.level.t) - 1))[0]
