"""Checks of measurements in a recipe: their shapes, and what the methods need of their operators."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.inverse import Blur, Dense, Downsample, Gray, Mask, Measurement, adjoint
from diffusion_jax.diffusion.inverse.operators import FunctionOperator, Operator
from diffusion_jax.diffusion.parts import Part
from diffusion_jax.errors import UserError, reason
from diffusion_jax.generation.arguments import shown, whole_number

Images = jax.ShapeDtypeStruct  # float32 [B, H, W, C]
# What makes operators fit the images.
FITTING: dict[type, str] = {
    Downsample: 'factor must divide their height and width',
    Mask: 'mask must be [H, W, 1 or C], or one such mask for each image',
    Blur: 'kernel must be at most as large as they are, or one such kernel for each image',
    Dense: 'must be made by dense(function, shape) with their shape',
}


def checked(part: Any, images: Images, owner: Any = None) -> Any:
    """A traced part or tuple of parts, in which every measurement fits the images.

    owner: the part that `part` is a field of. Its `needs_operator` is 'linear' or 'spectrum'; its
        `needs_noise` is whether the noise must be above 0.

    Raises:
        UserError: a part has something else than its measurement, or the operator fails, or y has another
            shape than its result, or a need is not met.
    """
    if isinstance(part, tuple):
        return tuple(checked(each, images, owner) for each in part)
    if isinstance(part, Measurement):
        return _checked(part, images, owner)
    if not isinstance(part, Part):
        return part
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    if 'measurement' in fields and not isinstance(fields['measurement'], Measurement):
        given = type(fields['measurement']).__name__
        remedy = 'must be a Measurement(operator, y, noise)'
        raise UserError(f'{type(part).__name__}.measurement', f'got {given}', remedy)
    return dataclasses.replace(part, **{name: checked(value, images, part) for name, value in fields.items()})


def _checked(measurement: Measurement, images: Images, owner: Any) -> Measurement:
    operator, name, y = measurement.operator, type(owner).__name__, np.asarray(measurement.y)
    out = _result(operator, images)
    if out.shape[:1] != images.shape[:1]:
        problem = f'returns {out.shape} for images {images.shape}'
        raise UserError('operator', problem, 'must return one row for each image, [B, …]')
    y = y[None] if y.shape == out.shape[1:] else y
    if y.shape not in (out.shape, (1, *out.shape[1:])):
        shapes = f'{out.shape} or {out.shape[1:]}, the shape of operator(images)'
        raise UserError('Measurement.y', f'has the shape {y.shape}', f'must be {shapes}')
    if isinstance(operator, Mask) and np.any(np.where(operator.mask == 0, y, 0)):
        raise UserError('Measurement.y', 'is not 0 where the mask is 0', 'multiply it by the mask')
    if isinstance(operator, (Downsample, Gray, Mask)):  # whose results are pixels, and pixels are in [-1, 1]
        _check_pixels(y, float(np.max(measurement.noise)))
    needed = getattr(owner, 'needs_operator', '')
    if needed == 'spectrum' and not operator.has_spectrum:
        remedy = 'use Mask, Downsample, Gray or Blur, or dense(function, shape) for small images'
        raise UserError('operator', f'has no singular values, which {name} needs', remedy)
    if needed and not _is_linear(operator, images, out):
        raise UserError('operator', f'is not linear, and {name} needs that', 'use DPS or DAPS')
    if getattr(owner, 'needs_noise', False) and not np.all(np.asarray(measurement.noise) > 0):
        raise UserError('Measurement.noise', 'is 0', f'must be above 0 for {name}')
    return dataclasses.replace(measurement, y=y)


def _check_pixels(y: np.ndarray, noise: float) -> None:
    """UserError if y lies so far outside [-1, 1] that noise cannot be the reason."""
    largest = float(np.abs(y).max(initial=0))
    if largest > 2 + 10 * noise:
        problem = f'has values up to {largest:g}'
        raise UserError(
            'Measurement.y', problem, 'must be of images in [−1, 1]: convert uint8 by y / 127.5 − 1'
        )


def _result(operator: Any, images: Images) -> Images:
    """What the operator returns, by its shape. UserError if it cannot act on the images."""
    if not isinstance(operator, Operator):
        remedy = 'must be an Operator, or a linear function of images'
        raise UserError('Measurement.operator', f'got {type(operator).__name__}', remedy)
    if isinstance(operator, Downsample):
        whole_number('Downsample.factor', operator.factor, 1)
    if isinstance(operator, Mask) and np.any((operator.mask < 0) | (operator.mask > 1)):
        raise UserError(
            'Mask.mask', f'got {shown(operator.mask)}', 'must be from 0 to 1: divide uint8 by 255'
        )
    batch, *size = images.shape
    named, shape = _described(operator), '×'.join(map(str, size))
    remedy = FITTING.get(type(operator), 'must act on images [B, H, W, C]')
    try:
        out = jax.eval_shape(operator, images)
        same = (
            jax.eval_shape(partial(operator.spectral, jnp.abs), images) if operator.has_spectrum else images
        )
    except (TypeError, ValueError) as error:
        problem = f'{named} fails for {batch} images of {shape}'
        problem += '' if type(operator) in FITTING else f': {reason(error)}'
        raise UserError('operator', problem, remedy) from error
    if same.shape != images.shape:
        raise UserError('operator', f'{named} makes {same.shape} of {batch} images of {shape}', remedy)
    return out


def _described(operator: Any) -> str:
    """Such as 'Downsample(factor 3)' or 'Mask(mask of (1, 7, 8, 1))'."""
    fields = {field.name: getattr(operator, field.name) for field in dataclasses.fields(operator)}
    given = [
        f'{name} {value}' if isinstance(value, int) else f'{name} of {value.shape}'
        for name, value in fields.items()
        if isinstance(value, int) or hasattr(value, 'shape')
    ]
    return type(operator).__name__ + (f'({", ".join(given)})' if given else '')


def _is_linear(operator: Any, images: Images, out: Images) -> bool:
    if not isinstance(operator, (FunctionOperator, Dense)):
        return True
    try:
        jax.eval_shape(lambda x, y: adjoint(operator, y, x), images, out)
    except Exception:  # of a kind that depends on the operation that has no transpose
        return False
    return not np.any(operator(jnp.zeros(images.shape, images.dtype)))  # affine functions are transposed, too
