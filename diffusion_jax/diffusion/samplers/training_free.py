"""Training-free guidance (TFG, 2409.15761, Algorithm 1): DDIM whose x̂_0 moves up log p(y|x_0).

    f̃(x_0) = log (1/K) Σ_k exp log_prob(x_0 + spread·sigma·z_k)
    Δ_t = rho·ᾱ/ᾱ′·∇_{x_t} f̃(x̂_0(x_t))                                through the network
    Δ_0 = `inner` steps of ascent, mu·ᾱ/ᾱ′·∇ f̃ at x̂_0 + Δ_0             not through it
    x_{t-1} = DDIM_η(x̂_0 + Δ_0 + Δ_t/alpha, ε̂), with the ε̂ of the old x̂_0

ᾱ is that of the step's level, ᾱ′ that of the next. All z_k of a step are the same for Δ_t and Δ_0. The
recurrences are transitions of the grid: 'travel:100/1,2' has two (see `diffusion.jumps`). The gradient of
guidances is added to Δ_t: with `Adam` around `ReconstructionGuidance` it is Adam DPS (2603.16797).

The release divides the weights ᾱ/ᾱ′ by their mean over the grid: its ρ and μ are ours times that mean, .91
for 100 steps of the linear schedule and .92 of the cosine. Special cases are LGD (mu = 0) and MPGD (rho = 0).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb
from diffusion_jax.diffusion.log_probs import ascend, smoothed
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Prediction, Transition, align
from diffusion_jax.diffusion.samplers.ddim import ddim_kernel
from diffusion_jax.diffusion.samplers.loop import Image, Noise, Sampler


class TFG(Sampler):
    """Training-free guidance by a log-probability of clean images.

    Attributes:
      rho: of the gradient through the network.
      mu: of the ascent from x̂_0.
      spread: of the draws around x̂_0, as a multiple of sigma = √(1−ᾱ).
      eta: η of DDIM.
      log_prob: (x_0, level of x_t) → [B], differentiable; None leaves the gradients of guidances alone.
      draws: K.
      inner: the steps of the ascent.
    """

    rho: Number = option(default=1.0, per_image=True)
    mu: Number = option(default=0.25, per_image=True)
    spread: Number = option(default=0.1)
    eta: Number = option(default=1.0, most=1.0)
    log_prob: LogProb | None = static(default=None)
    draws: int = static(default=1, values=1)
    inner: int = static(default=4, values=0)
    shifts_mean: ClassVar[bool] = True

    def unguided(self) -> Sampler:
        return dataclasses.replace(self, log_prob=None)

    def step(
        self, denoise: Denoiser, state: Image, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Image, Any]:
        if self.log_prob is None:
            prediction, memory = denoise(state.x, transition.level, memory)
        else:
            draws = jnp.stack([noise(1 + k) for k in range(self.draws)])
            log_prob = smoothed(self.log_prob, draws, self.spread)
            prediction, memory = self._moved(denoise, log_prob, state.x, memory, transition)
        if prediction.gradient is not None:
            alpha = align(transition.level.alpha, state.x)
            prediction = prediction._replace(x_0=prediction.x_0 + prediction.gradient / alpha)
        return Image(ddim_kernel(prediction, state.x, transition, self.eta).draw(noise(0))), memory

    def _moved(
        self, denoise: Denoiser, log_prob: LogProb, x_t: Array, memory: Any, transition: Transition
    ) -> tuple[Prediction, Any]:
        """The prediction with x̂_0 + Δ_0 + Δ_t/alpha, and the memory."""
        level = transition.level

        def value(x: Array) -> tuple[Array, tuple[Prediction, Any]]:
            prediction, following = denoise(x, level, memory)
            return jnp.sum(log_prob(prediction.x_0, level)), (prediction, following)

        gradient, (prediction, memory) = jax.grad(value, has_aux=True)(x_t)
        weight = (level.alpha / transition.next.alpha) ** 2
        x_0 = ascend(log_prob, prediction.x_0, level, self.mu * weight, self.inner)
        rho, alpha = align((self.rho * weight, level.alpha), x_t)
        return prediction._replace(x_0=x_0 + rho * gradient / alpha), memory
