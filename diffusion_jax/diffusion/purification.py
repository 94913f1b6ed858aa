"""Purification (DiffPure, 2205.07460): noise an image to a level, then denoise it.

    x_t = alpha·x + sigma·eps,  x̂ = the sampler from x_t to the clean image

It is a function of x for fixed draws, so its gradient through all steps is exact. With `remat` a backward
pass keeps one state a step and evaluates the network once more a step. DiffPure's own gradient is that of the
adjoint equation, which belongs to infinitely short steps. It noises to t = 150 of 1000 for ImageNet and 100
for CIFAR-10, where σ = sigma/alpha of the linear schedule is .52 and .34.
"""

import jax
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.process import Transition, add_noise
from diffusion_jax.diffusion.samplers import Sampler, sample
from diffusion_jax.diffusion.samplers.loop import NoiseAt


def purify(
    sampler: Sampler,
    denoise: Denoiser,
    grid: Transition,
    noise_at: NoiseAt,
    images: Array,
    done: int,
    *,
    remat: bool = True,
) -> Array:
    """The purified images, [B, H, W, C], differentiable by `images`.

    Args:
      grid: arrays [N], the first transition first; its first `done` transitions are skipped.
      noise_at: the draws, at the positions of the complete grid; the first one noises the images.
      remat: recomputes each step in a backward pass.
    """
    rest = jax.tree.map(lambda values: values[done:], grid)
    level = jax.tree.map(lambda values: values[0], rest.level)
    x_t = add_noise(images, noise_at(0, 0), level)
    state, _ = sample(
        sampler, denoise, rest, lambda position, i: noise_at(position + done, i), x_t, remat=remat
    )
    return state.x
