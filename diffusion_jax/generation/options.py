"""Reads and checks samplers and guidances: texts, with options after a colon, or Python objects.

    sampler='ddim:eta=0.5'        guidance='classifier:scale=2.5'

Several guidances are joined by +, the innermost first; interval and reuse act on the one before them:

    'classifier_free:scale=1.5 + classifier:scale=2/interval:low=0.2,high=5/reuse:every=2'
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.checks import INT32, between, one_of
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import Denoiser, LogProb
from diffusion_jax.diffusion.grids import TIMESTEPS, make_grid
from diffusion_jax.diffusion.guidance import GUIDANCES, MODIFIERS, Function, Guidance, Interval, Reuse
from diffusion_jax.diffusion.parts import Part, options
from diffusion_jax.diffusion.process import Level, Transition
from diffusion_jax.diffusion.recipe import innermost
from diffusion_jax.diffusion.samplers import SAMPLERS, Sampler
from diffusion_jax.errors import UserError, reason
from diffusion_jax.generation import arguments


def read_sampler(sampler: str | Sampler, eta: float = 0.0) -> Sampler:
    """A sampler, or the one that a text names. UserError where the name or an option is wrong.

    eta: the default where the text gives none and the sampler has this option.
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

    scale: the default where a text gives none.
    """
    if isinstance(guidance, str):
        texts = re.split(r'\+(?!\s*\d)', guidance)  # the + of 1e+3 joins nothing
        return tuple(_read_modified(text.strip(), scale) for text in texts if text.strip())
    if isinstance(guidance, (tuple, list)):
        return tuple(part for each in guidance for part in read_guidance(each, scale))
    if isinstance(guidance, Guidance):
        return (_read_inner(guidance),)
    if not callable(guidance) or isinstance(guidance, type):
        raise UserError(
            f'guidance is {guidance!r}; give {_listed(GUIDANCES)}, a Guidance, or a function from denoiser '
            'to denoiser'
        )
    arguments.check_function('guidance', guidance, 'a denoiser')
    return (Function(guidance),)


def traced(part: Any, num_images: int) -> Any:
    """A part whose numbers are arrays of one dtype and shape, so that other numbers compile nothing.

    float32 or int32; [], or [num_images] where an option may differ between images.

    Raises:
        UserError: a number is out of the range of its option, or of another shape.
    """
    if isinstance(part, tuple):
        return tuple(traced(each, num_images) for each in part)
    if not isinstance(part, Part):
        return part
    known = options(part)

    def read(name: str) -> Any:
        value = getattr(part, name)
        if name not in known:
            return traced(value, num_images)
        return _number(f'{type(part).__name__}.{name}', value, num_images, known[name].metadata)

    return dataclasses.replace(part, **{field.name: read(field.name) for field in dataclasses.fields(part)})


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
    """UserError unless the grid consists of timesteps of the process."""
    check_respacing(diffusion, respacing)
    if ':' in respacing:
        raise UserError(f"respacing is {respacing!r}; a likelihood has whole timesteps, such as '' or '250'")


def check_log_prob(log_prob: LogProb, shape: tuple[int, ...]) -> None:
    """UserError unless a function of images of this shape and their level returns a number for each."""
    arguments.check_function('log_prob', log_prob, '(x, level)')
    x, number = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    try:
        result = jax.eval_shape(log_prob, x, Level(number, number, number))
    except Exception as error:  # whatever the function raises
        raise UserError(f'log_prob fails for x {shape}: {reason(error)}') from error
    if getattr(result, 'shape', None) != shape[:1] or not jnp.issubdtype(result.dtype, jnp.floating):
        raise UserError(f'log_prob returns {result}; it must return floats ({shape[0]},)')


def _read_modified(text: str, scale: float) -> Guidance:
    name, *modifiers = text.split('/')
    if name.partition(':')[0].strip() in MODIFIERS:
        raise UserError(f'guidance is {text!r}; it acts on another, such as classifier/{name.strip()}')
    guidance = _read_part('guidance', name, GUIDANCES, scale=scale)
    for modifier in modifiers:
        guidance = _read_part(f'guidance is {text!r}: what follows /', modifier, MODIFIERS, guidance=guidance)
    return _read_inner(guidance)


def _read_inner(guidance: Guidance) -> Guidance:
    """A guidance, with what a modifier acts on read likewise. UserError where it cannot act on that."""
    if not hasattr(guidance, 'guidance'):
        return guidance
    inner = read_guidance(guidance.guidance)
    name = type(guidance).__name__
    if len(inner) != 1:
        raise UserError(f'{name} acts on {len(inner)} guidances; give one')
    if isinstance(guidance, Reuse) and inner[0].before_clip:
        raise UserError(
            f'guidance is {type(innermost(inner[0])).__name__} with reuse, which acts on guidance by a '
            'gradient only'
        )
    if isinstance(guidance, Interval) and not np.all(np.asarray(guidance.low) <= guidance.high):
        raise UserError(f'{name}.low is {guidance.low}; it must be at most high, which is {guidance.high}')
    return dataclasses.replace(guidance, guidance=inner[0])


def _read_part(kind: str, text: str, known: Mapping[str, type[Part]], **defaults: Any) -> Any:
    """The part that a text names. defaults: of fields that the text omits and the part has."""
    text = text.strip()
    name, _, given = (piece.strip() for piece in text.partition(':'))
    one_of(kind, name, known)
    numbers, names = options(known[name]), [field.name for field in dataclasses.fields(known[name])]
    fields = {key: value for key, value in defaults.items() if key in names}
    for argument in filter(None, (piece.strip() for piece in given.split(','))):
        key, _, value = (piece.strip() for piece in argument.partition('='))
        if key not in numbers:
            has = f'its options are {", ".join(numbers)}' if numbers else 'it has no options'
            raise UserError(f'{kind} is {text!r}; {name} has no option {key!r}, {has}')
        limits = numbers[key].metadata
        try:
            fields[key] = (int if limits['whole'] else float)(value)
        except ValueError as error:
            number = 'a whole number' if limits['whole'] else 'a number'
            raise UserError(f'{kind} is {text!r}; {key} must be {number}, not {value!r}') from error
        try:
            _one_number(key, fields[key], limits)
        except UserError as error:
            raise UserError(f'{kind} is {text!r}: {error}') from error
    return known[name](**fields)


def _number(name: str, value: Any, num_images: int, limits: Mapping[str, Any]) -> np.ndarray:
    if not limits['per_image']:
        return _one_number(name, value, limits)
    array = arguments.one_for_each(name, value, num_images, np.int32 if limits['whole'] else np.float32)
    for number in (array.min(), array.max()):
        between(name, number.item(), limits['least'], most=limits['most'])
    return array


def _one_number(name: str, value: Any, limits: Mapping[str, Any]) -> np.ndarray:
    least, most = limits['least'], limits['most']
    if limits['whole']:
        return np.int32(arguments.whole_number(name, value, int(least), int(min(most + 1, INT32))))
    return np.float32(arguments.real_number(name, value, least, most))


def _listed(known: Mapping[str, Any]) -> str:
    return f'one of {", ".join(known)}'
