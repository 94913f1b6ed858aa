"""Functions of the caller in a recipe: what they return is checked before a network is compiled with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, plain
from diffusion_jax.diffusion.guidance import Function, Reward, innermost
from diffusion_jax.diffusion.process import Level, Prediction
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator

TRACEABLE = 'must be a function that JAX can trace and differentiate: use jax.numpy, and no value of an array'


def check_functions(model: Generator, recipe: Recipe, num_images: int) -> None:
    """UserError for a log_prob or a function from denoiser to denoiser that cannot work; runs nothing.

    num_images: with the padding to a multiple of the number of devices.
    """
    shape = num_images, *model.unet.image_size, model.unet.image_channels
    for part in (recipe.sampler, *map(innermost, recipe.guidance)):
        if getattr(part, 'log_prob', None) is not None:
            where = f'{type(part).__name__}.log_prob'
            _check_log_prob(where, part.log_prob, shape, differentiated=not isinstance(part, Reward))
        if isinstance(part, Function):
            _check_guidance(part.function, shape, model.unet.out_channels > model.unet.image_channels)


def not_finite(recipe: Recipe) -> str:
    """What may help against images that are not finite."""
    parts = recipe.sampler, *map(innermost, recipe.guidance)
    own = [type(part).__name__ for part in parts if getattr(part, 'log_prob', None) is not None]
    if own:
        return f'lower scale, or give {own[0]} a log_prob that is finite, with its gradient, for every image'
    return 'lower scale' if recipe.guidance else 'use other weights'


@functools.lru_cache(maxsize=64)
def _check_log_prob(where: str, log_prob: LogProb, shape: tuple[int, ...], *, differentiated: bool) -> None:
    x, level = _arguments(shape)
    found = _traced(where, log_prob, x, level)
    if not _is_array(found, shape[:1]):
        raise UserError(where, f'returns {_described(found)}', 'must return one number for each image, [B]')
    if differentiated:
        _traced(where, jax.grad(lambda x, level: jnp.sum(log_prob(x, level))), x, level)


@functools.lru_cache(maxsize=64)
def _check_guidance(
    function: Callable[[Denoiser], Denoiser], shape: tuple[int, ...], learned_variance: bool
) -> None:
    x, level = _arguments(shape)
    images = plain(lambda x_t, level: Prediction(x_t, x_t, x_t if learned_variance else None))
    guided = function(images)
    if not isinstance(guided, Denoiser):
        problem = f'{_name(function)} returns {type(guided).__name__}'
        raise UserError('guidance', problem, 'must return a denoiser: denoise._replace(call=…)')
    memory = _traced('guidance', guided.init, x)
    found = _traced('guidance', guided.call, x, level, memory)
    prediction = found[0] if isinstance(found, tuple) and len(found) == 2 else None
    if not isinstance(prediction, Prediction) or not _is_array(prediction.x_0, shape):
        problem = f'the denoiser of {_name(function)} returns {_described(found)}'
        raise UserError('guidance', problem, 'must return (prediction, memory), with images as it is given')


def _arguments(shape: tuple[int, ...]) -> tuple[ShapeDtypeStruct, Level]:
    number = ShapeDtypeStruct((), jnp.float32)
    return ShapeDtypeStruct(shape, jnp.float32), Level(number, number, number)


def _traced(where: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return jax.eval_shape(function, *arguments)
    except UserError:
        raise
    except Exception as error:
        line = next(iter(str(error).splitlines()), '')
        raise UserError(where, f'{type(error).__name__}: {line}'.removesuffix('.'), TRACEABLE) from error


def _is_array(found: Any, shape: tuple[int, ...]) -> bool:
    return getattr(found, 'shape', None) == shape and jnp.issubdtype(found.dtype, jnp.floating)


def _described(found: Any) -> str:
    if hasattr(found, 'shape'):
        return f'{found.dtype} of the shape {found.shape}'
    return type(found).__name__


def _name(function: Any) -> str:
    return getattr(function, '__name__', type(function).__name__)
