"""Noise on the small image that an upsampler enlarges (conditioning augmentation)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from diffusion_jax.diffusion.process import Level, add_noise


def augment(low_res: jax.Array, eps: jax.Array, strength: jax.Array) -> jax.Array:
    """√(1−s²)·z + s·eps, the forward process on the small image z (Ho et al. 2021, 2106.15282).

    A base model's images differ from the reduced images of a training; an upsampler that was trained with
    noise depends less on their details. Unlike in the source, the network is not told s.

    Args:
        low_res: z, float [B, h, w, C] in [−1, 1].
        eps: standard normal, like z.
        strength: s, [B], from 0 to below 1.
    """
    return add_noise(low_res, eps, Level(jnp.zeros_like(strength), jnp.sqrt(1 - strength**2), strength))
