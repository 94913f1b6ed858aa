"""From images to the variational bound on their likelihood: one compiled scan over the steps of the process.

The bound of image i rests on (seed, i) alone: the noise of every step comes from the key
`fold_in(key(seed), i)`, whatever batch and device it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from diffusion_jax.data.transforms import to_float
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import clip
from diffusion_jax.diffusion.likelihood import bits_per_dimension
from diffusion_jax.diffusion.samplers.loop import per_sample_noise
from diffusion_jax.diffusion.schedules import schedule_of, transitions
from diffusion_jax.generation.denoiser import make_denoiser
from diffusion_jax.generation.generate import sample_keys
from diffusion_jax.models import Params, UNetConfig


class Judged(NamedTuple):
    """Images to judge.

    Attributes:
        seed: uint32 scalar.
        index: int32 [B], which noise of that seed.
        images: uint8 [B, H, W, C].
        y: int32 [B], their classes.
        low_res: uint8 [B, h, w, C], what an upsampler made them from.
    """

    seed: jax.Array
    index: jax.Array
    images: jax.Array
    y: jax.Array
    low_res: jax.Array | None = None


def make_bound(
    unet: UNetConfig, diffusion: DiffusionConfig, respacing: str, clip_x_0: bool
) -> Callable[[Params, Judged], dict[str, jax.Array]]:
    """(parameters of the diffusion model, images) → the terms of their bound, as of `bits_per_dimension`.

    To be jitted by the caller.
    """
    table = transitions(schedule_of(diffusion, respacing))

    def bound(params: Params, judged: Judged) -> dict[str, jax.Array]:
        low_res = None if judged.low_res is None else to_float(judged.low_res)
        denoise = make_denoiser(unet, params, diffusion.prediction, judged.y, low_res)
        x_0, keys = to_float(judged.images), sample_keys(judged.seed, judged.index)
        return bits_per_dimension(
            clip(denoise) if clip_x_0 else denoise,
            x_0,
            table,
            lambda t: per_sample_noise(keys, t, x_0.shape[1:]),
            diffusion.variance,
        )

    return bound
