"""One step of a sampler as a function of arrays."""

from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, score_shift
from diffusion_jax.diffusion.process import Transition
from diffusion_jax.diffusion.samplers import Sampler


def take_step(sampler: Sampler, denoise: Denoiser, x_t: Array, transition: Transition, noise: Array) -> Array:
    """x_{t-1}, as the loop computes it for a first step; `noise` is every draw.

    transition: [], or [B] where the sampler allows it.
    """
    denoise = denoise if sampler.shifts_mean else score_shift(denoise)
    state, _ = sampler.step(denoise, sampler.init(x_t), denoise.init(x_t), transition, lambda i: noise)
    return state.x
