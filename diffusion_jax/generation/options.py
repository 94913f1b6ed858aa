"""Samplers and guidances as a user writes them, checked: in texts, with options after a colon, or in Python.

    sampler='ddim:eta=0.5'        guidance='classifier:scale=2.5'

Several guidances are joined by +, the innermost first; interval and reuse act on the one before them:

    'classifier_free:scale=1.5 + classifier:scale=2/interval:low=0.2,high=5/reuse:every=2'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.checks import between, one_of
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import Denoiser, LogProb
from diffusion_jax.diffusion.grids import TIMESTEPS, make_grid
from diffusion_jax.diffusion.guidance import GUIDANCES, MODIFIERS, Function, Guidance
from diffusion_jax.diffusion.parts import Part, options
from diffusion_jax.diffusion.process import Level, Transition
from diffusion_jax.diffusion.samplers import SAMPLERS, Sampler
from diffusion_jax.errors import UserError


def read_sampler(sampler: str | Sampler, eta: float = 0.0) -> Sampler:
    """A sampler, or the one that a text names. UserError where the name or an option is wrong.

    eta: of a text that gives none, for a sampler that has this option.
    """
    if isinstance(sampler, str):
        return _read_part('sampler', sampler, SAMPLERS, eta=eta)
    if not isinstance(sampler, Sampler):
        raise UserError(f'sampler is {sampler!r}; give {_listed(SAMPLERS)}, or a Sampler of your own')
    return sampler


# A text, a guidance, or a function from denoiser to denoiser; or several of them.
Guidances = str | Guidance | Callable[[Denoiser], Denoiser] | Sequence[Any]


def read_guidance(guidance: Guidances, scale: float = 1.0) -> tuple[Guidance, ...]:
    """Guidances, the innermost first. UserError where a name or an option is wrong.

    scale: of guidances in a text that gives none.
    """
    if isinstance(guidance, str):
        return tuple(_read_modified(text, scale) for text in guidance.split('+') if text.strip())
    if isinstance(guidance, (tuple, list)):
        return tuple(part for each in guidance for part in read_guidance(each, scale))
    if isinstance(guidance, Guidance):
        return (guidance,)
    if not callable(guidance):
        raise UserError(
            f'guidance is {guidance!r}; give {_listed(GUIDANCES)}, a Guidance, or a function from denoiser '
            'to denoiser'
        )
    return (Function(guidance),)


def traced(part: Any, num_images: int, where: str = '') -> Any:
    """A part whose numbers are arrays of one dtype and shape, so that other numbers compile nothing.

    float32 or int32; [], or [num_images] where an option may differ between images.

    Raises:
        UserError: a number is out of the range of its option, or of another shape.
    """
    if isinstance(part, tuple):
        return tuple(traced(each, num_images, where) for each in part)
    if not isinstance(part, Part):
        return part
    name = f'{where}{type(part).__name__}.'
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    known = options(part)
    return dataclasses.replace(
        part,
        **{
            key: _number(f'{name}{key}', value, num_images, known[key].metadata)
            if key in known
            else traced(value, num_images)
            for key, value in values.items()
        },
    )


def check_respacing(diffusion: DiffusionConfig, respacing: str, timesteps: str = 'fractional') -> Transition:
    """The grid of a name. UserError unless the process has it."""
    one_of('timesteps', timesteps, TIMESTEPS)
    if not isinstance(respacing, str):
        raise UserError(f"respacing is {respacing!r}; give a text such as '250', 'ddim25' or 'karras:18'")
    try:
        return make_grid(diffusion, respacing, timesteps)
    except ValueError as error:
        raise UserError(f'respacing is {respacing!r}: {error}') from error


def check_timesteps(diffusion: DiffusionConfig, respacing: str) -> None:
    """UserError unless the name is that of timesteps of the process."""
    check_respacing(diffusion, respacing)
    if ':' in respacing:
        raise UserError(f"respacing is {respacing!r}; a likelihood has whole timesteps, such as '' or '250'")


def check_log_prob(log_prob: LogProb, shape: tuple[int, ...]) -> None:
    """UserError unless a function of images of this shape and their level returns a number for each."""
    if not callable(log_prob) or not isinstance(log_prob, Hashable):
        raise UserError(f'log_prob is {log_prob!r}; give a function of (x, level) that is hashable')
    x, number = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    result = jax.eval_shape(log_prob, x, Level(number, number, number))
    if getattr(result, 'shape', None) != shape[:1] or not jnp.issubdtype(result.dtype, jnp.floating):
        raise UserError(f'log_prob returns {result}; it must return floats ({shape[0]},)')


def describe(part: Part, image: int = 0) -> str:
    """A part as text, with the numbers of one image: 'DDIM(eta=0.5)'."""
    if isinstance(inner := getattr(part, 'guidance', None), Part):
        return describe(inner, image)
    numbers = {name: np.ravel(getattr(part, name)) for name in options(part)}
    shown = ', '.join(f'{name} {values[min(image, len(values) - 1)]:g}' for name, values in numbers.items())
    return f'{type(part).__name__}({shown})' if shown else type(part).__name__


def _read_modified(text: str, scale: float) -> Guidance:
    name, *modifiers = text.split('/')
    guidance = _read_part('guidance', name, GUIDANCES, scale=scale)
    for modifier in modifiers:
        guidance = _read_part('modifier of a guidance', modifier, MODIFIERS, guidance=guidance)
    return guidance


def _read_part(kind: str, text: str, known: Mapping[str, type[Part]], **defaults: Any) -> Any:
    """The part that a text names. defaults: of fields that the text does not give, where it has them."""
    name, _, arguments = (piece.strip() for piece in text.partition(':'))
    one_of(kind, name, known)
    numbers, names = options(known[name]), [field.name for field in dataclasses.fields(known[name])]
    fields = {key: value for key, value in defaults.items() if key in names}
    for argument in filter(None, (piece.strip() for piece in arguments.split(','))):
        key, _, value = (piece.strip() for piece in argument.partition('='))
        if key not in numbers:
            has = f'its options are {", ".join(numbers)}' if numbers else 'it has no options'
            raise UserError(f'{kind} is {text.strip()!r}; {name} has no option {key!r}, {has}')
        try:
            fields[key] = (int if numbers[key].metadata['whole'] else float)(value)
        except ValueError as error:
            number = 'a whole number' if numbers[key].metadata['whole'] else 'a number'
            raise UserError(f'{kind} is {text.strip()!r}; {key} must be {number}, not {value!r}') from error
    part = known[name](**fields)
    traced(part, 1, f'{kind} ')  # in range
    return part


def _number(name: str, value: Any, num_images: int, option: Mapping[str, Any]) -> np.ndarray:
    dtype = np.int32 if option['whole'] else np.float32
    array = np.asarray(value)
    shapes = ((), (num_images,)) if option['per_image'] else ((),)
    if (
        array.dtype.kind not in 'iuf'
        or array.shape not in shapes
        or (option['whole'] and array.dtype.kind == 'f')
    ):
        kind = 'a whole number' if option['whole'] else 'a number'
        each = f', or one for each of the {num_images} images' if option['per_image'] else ''
        raise UserError(f'{name} is {value!r}; give {kind}{each}')
    for number in np.ravel(array):
        between(name, number.item(), option['least'], most=option['most'])
    return np.broadcast_to(array.astype(dtype), shapes[-1])


def _listed(known: Mapping[str, Any]) -> str:
    return f'one of {", ".join(known)}'
