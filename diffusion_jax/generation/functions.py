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
from diffusion_jax.errors import UserError, reason

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator

# Fields of parts that may be functions of the caller, and what they return for each image.
RETURNED = {'log_prob': 'one number for each image, [B]', 'logits': 'one for each image and class, [B, K]'}
TRACEABLE = 'must be a function that JAX can trace and differentiate: use jax.numpy, and no value of an array'


def check_functions(model: Generator, recipe: Recipe, num_images: int) -> None:
    """UserError for log_prob, logits or a function from denoiser to denoiser that cannot work; runs nothing.

    num_images: with the padding to a multiple of the number of devices.
    """
    shape = num_images, *model.unet.image_size, model.unet.image_channels
    for part in (recipe.sampler, *map(innermost, recipe.guidance)):
        for name in _own(part):
            differentiated = not isinstance(part, Reward)
            _check_function(type(part).__name__, name, getattr(part, name), shape, differentiated)
        if isinstance(part, Function):
            _check_guidance(part.function, shape, model.unet.out_channels > model.unet.image_channels)


def not_finite(recipe: Recipe) -> str:
    """What may help against images that are not finite."""
    parts = recipe.sampler, *map(innermost, recipe.guidance)
    own = [f'{type(part).__name__}.{name}' for part in parts for name in _own(part)]
    if own:
        return f'lower scale, or make {own[0]} and its gradient finite for every image'
    return 'lower scale' if recipe.guidance else 'use other weights'


def _own(part: Any) -> list[str]:
    """The names of the fields of a part that are functions of the caller."""
    return [name for name in RETURNED if getattr(part, name, None) is not None]


@functools.lru_cache(maxsize=64)
def _check_function(
    part: str, name: str, function: LogProb, shape: tuple[int, ...], differentiated: bool
) -> None:
    where, (x, level) = f'{part}.{name}', _arguments(shape)
    found = _traced(where, function, x, level)
    classes = getattr(found, 'shape', ())[1:2] if name == 'logits' else ()
    if not _is_array(found, (*shape[:1], *classes)) or (name == 'logits' and not classes):
        raise UserError(where, f'returns {_described(found)}', f'must return {RETURNED[name]}')
    if differentiated:
        _traced(where, jax.grad(lambda x, level: jnp.sum(function(x, level))), x, level)


@functools.lru_cache(maxsize=64)
def _check_guidance(
    function: Callable[[Denoiser], Denoiser], shape: tuple[int, ...], learned_variance: bool
) -> None:
    x, level = _arguments(shape)
    images = plain(lambda x_t, level: Prediction(x_t, x_t, x_t if learned_variance else None))
    remedy = (
        'must be a function from denoiser to denoiser, or a log-probability in ReconstructionGuidance(1.0, …)'
    )
    try:
        guided = function(images)
    except TypeError as error:
        raise UserError('guidance', f'{_name(function)}: {error}', remedy) from error
    if not isinstance(guided, Denoiser):
        raise UserError('guidance', f'{_name(function)} returns {type(guided).__name__}', remedy)
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
        problem = f'{type(error).__name__}: {reason(error)}'.removesuffix('.')
        raise UserError(where, problem, TRACEABLE) from error


def _is_array(found: Any, shape: tuple[int, ...]) -> bool:
    return getattr(found, 'shape', None) == shape and jnp.issubdtype(found.dtype, jnp.floating)


def _described(found: Any) -> str:
    if hasattr(found, 'shape'):
        return f'{found.dtype} of the shape {found.shape}'
    return type(found).__name__


def _name(function: Any) -> str:
    return getattr(function, '__name__', type(function).__name__)
