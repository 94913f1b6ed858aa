"""Purification of images by a model, as a differentiable function; see `diffusion.purification`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import purification
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.errors import UserError
from diffusion_jax.generation import requests
from diffusion_jax.generation.arguments import check_array, first_step
from diffusion_jax.generation.labels import Labels
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.program import jitted
from diffusion_jax.generation.sampling import Request, make_parts
from diffusion_jax.images import to_float
from diffusion_jax.models import Params
from diffusion_jax.sharding import batch_sharding

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator


def purify(
    networks: Networks,
    params: dict[str, Params],
    request: Request,
    images: jax.Array,
    *,
    done: int = 0,
    remat: bool = True,
) -> jax.Array:
    """Images, float32 [B, H, W, C] in [−1, 1], noised and denoised; differentiable in every array.

    Args:
        request: its seed and index give the noise, its recipe the steps.
        done: the steps of the recipe's grid that are skipped; the images are noised to the level after them.
        remat: recomputes each step in a backward pass, which then keeps one state a step.
    """
    sampler, denoise, grid, noise_at, _ = make_parts(networks, params, request)
    return purification.purify(sampler, denoise, grid, noise_at, images, done, remat=remat)


def purify_images(
    model: Generator,
    images: Any,
    y: Labels | None = None,
    *,
    start: float,
    guidance: Any = '',
    remat: bool = True,
    **how: Any,
) -> jax.Array:
    """Purified images, float32 [B, H, W, C] about in [−1, 1], on the devices (DiffPure, 2205.07460).

    It may be jitted and differentiated: images may be traced. The gradient goes through all steps.
    Raises UserError if an argument is missing, or has another shape or type.

    Args:
        images: float [B, H, W, C] in [−1, 1], or uint8.
        start: the seed's noise is added up to the first level of the grid with σ = sigma/alpha at most this.
        remat: recomputes each step in a backward pass, which then keeps one state a step.
        y, guidance, how: see `request`; by default unguided.
    """
    shape, is_uint8 = np.shape(images), getattr(images, 'dtype', None) == np.uint8
    size = (*model.unet.image_size, model.unet.image_channels)
    if len(shape) != 4 or shape[1:] != size or not shape[0]:
        raise UserError('images', f'got the shape {shape}', f'must be (B, {", ".join(map(str, size))})')
    if not isinstance(images, jax.core.Tracer):
        images = check_array('images', images, shape, np.uint8 if is_uint8 else np.float32)
        if not is_uint8 and np.abs(images).max() > 2:
            problem = f'got values from {images.min():g} to {images.max():g}'
            raise UserError('images', problem, 'must be uint8, or float in [−1, 1]')
    request = requests.make_request(model, len(images), y, guidance=guidance, **how)
    requests.check_starts_from_images(request)
    recipe = request.recipe
    if recipe.sampler.population > 1:
        problem = f'{type(recipe.sampler).__name__} weighs images, and purification returns no weights'
        raise UserError('sampler', problem, 'use another sampler')
    grid = make_grid(model.diffusion, recipe.respacing, recipe.timesteps)
    done = first_step(grid.level, start)
    images = to_float(images) if is_uint8 else jnp.asarray(images, jnp.float32)
    padding = jnp.repeat(images[-1:], len(request.index) - shape[0], axis=0)
    images = jax.device_put(jnp.concatenate([images, padding]), batch_sharding(model.mesh))
    compute = jitted(purify, model.networks, done=done, remat=remat)
    return compute(model.params, request, images)[: shape[0]]
