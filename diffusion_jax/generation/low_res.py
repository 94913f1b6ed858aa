"""What a request gives to an upsampler: the images that it enlarges, and noise on them; checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diffusion_jax.checks import between
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import check_array, one_for_each

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator


def low_res_images(model: Generator, num_images: int, low_res: np.ndarray | None) -> np.ndarray | None:
    """The images that an upsampler enlarges, None for any other model."""
    if low_res is None and model.unet.low_res:
        raise UserError('low_res', 'got None', 'give the images that this model enlarges')
    if low_res is None:
        return None
    if not model.unet.low_res:
        raise UserError('low_res', 'given to a model that is no upsampler', 'leave it out')
    size = model.low_res_size or ('h', 'w')
    return check_array('low_res', low_res, (num_images, *size, model.unet.image_channels), np.uint8)


def low_res_noise_of(model: Generator, num_images: int, noise: Any, recipe: Recipe) -> np.ndarray | None:
    """float32 [num_images], None without noise."""
    noise = one_for_each('low_res_noise', noise, num_images, np.float32)
    for extreme in (noise.min(), noise.max()):
        between('low_res_noise', extreme.item(), 0, below=1)
    if not noise.any():
        return None
    if not model.unet.low_res:
        raise UserError('low_res_noise', 'given to a model that is no upsampler', 'leave it out')
    if recipe.sampler.population > 1:
        raise UserError('low_res_noise', 'would differ between the particles of an image', 'leave it out')
    return noise
