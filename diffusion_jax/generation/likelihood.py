"""From images to the variational bound on their likelihood: one compiled scan over the steps of the process.

The bound of image i depends on (seed, i) alone: the noise of every step comes from the key
`fold_in(key(seed), i)`, whatever batch and device it is in.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from diffusion_jax.diffusion.denoiser import clip
from diffusion_jax.diffusion.likelihood import bits_per_dimension
from diffusion_jax.diffusion.samplers.loop import per_sample_noise
from diffusion_jax.diffusion.schedules import schedule_of, transitions
from diffusion_jax.generation.networks import Networks, make_denoiser
from diffusion_jax.generation.sampling import sample_keys
from diffusion_jax.images import to_float
from diffusion_jax.models import Params


class Judged(NamedTuple):
    """The images whose likelihood is computed, and their conditioning.

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


def bound(
    networks: Networks, params: Params, judged: Judged, respacing: str, clip_x_0: bool
) -> dict[str, jax.Array]:
    """The terms of the images' bound, as of `bits_per_dimension`.

    params: of the diffusion model. Networks, respacing and clip_x_0 are static.
    """
    diffusion = networks.diffusion
    low_res = None if judged.low_res is None else to_float(judged.low_res)
    denoise = make_denoiser(networks, params, judged.y, low_res, respacing)
    x_0, keys = to_float(judged.images), sample_keys(judged.seed, judged.index)
    return bits_per_dimension(
        clip(denoise) if clip_x_0 else denoise,
        x_0,
        transitions(schedule_of(diffusion, respacing)),
        lambda t: per_sample_noise(keys, t, x_0.shape[1:]),
        diffusion.variance,
    )
