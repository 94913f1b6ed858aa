"""Samplers, guidances and grids from texts, with options after a colon, or from Python objects.

    sampler='ddim:eta=0.5'        guidance='classifier:scale=2.5'

Several guidances are joined by +, the innermost first; modifiers after a / act on the one before them:

    'classifier_free:scale=1.5 + classifier:scale=2/interval:low=0.2,high=5/reuse:every=2'

Weights of classes are options named by the class: 'mixture:7=0.5,8=0.5'; blocks are separated by spaces:
'pag:scale=2,blocks=middle encoder.14'.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.checks import one_of
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.grids import TIMESTEPS, make_grid
from diffusion_jax.diffusion.guidance import (
    APG,
    GUIDANCES,
    MODIFIERS,
    Extrapolation,
    Function,
    GradientModifier,
    Guidance,
    Interval,
    Modifier,
    Rescale,
    Reuse,
    Varying,
    innermost,
    scaled,
)
from diffusion_jax.diffusion.parts import Part, choices, option, options
from diffusion_jax.diffusion.process import Transition
from diffusion_jax.diffusion.samplers import SAMPLERS, Sampler
from diffusion_jax.errors import UserError
from diffusion_jax.generation import arguments

# A text, a guidance, or a function from denoiser to denoiser; or several of them.
Guidances = str | Guidance | Callable[[Denoiser], Denoiser] | Sequence[Any]

WEIGHT = option(1.0).metadata  # the limits of the weight of a class


def read_sampler(sampler: str | Sampler, eta: float = 0.0) -> Sampler:
    """A sampler; eta: unless 0, that of a text that gives none, if the sampler has this option."""
    if isinstance(sampler, str):
        return _read_part('sampler', sampler, SAMPLERS, **({'eta': eta} if eta else {}))
    if not isinstance(sampler, Sampler):
        allowed = f'must be one of {", ".join(SAMPLERS)}, or a Sampler, such as DPS(measurement)'
        if isinstance(sampler, type):
            allowed = f'must be an instance of this class: {sampler.__name__}()'
        raise UserError('sampler', _given(sampler), allowed)
    return sampler


def read_ode_sampler(sampler: str | Sampler) -> Sampler:
    """A sampler that solves the probability-flow ODE, so that it can invert images."""
    sampler = read_sampler(sampler)
    random = sampler.random_option
    if sampler.order is None or (random and np.any(getattr(sampler, random))):
        names = ', '.join(name for name, kind in SAMPLERS.items() if kind.order)
        remedy = f'set {random} to 0' if random else f'must be one of {names}'
        raise UserError('sampler', f'{type(sampler).__name__} is random, and cannot invert images', remedy)
    return sampler


def read_guidance(guidance: Guidances, default: Any = 1.0, scale: Any = None) -> tuple[Guidance, ...]:
    """Guidances, the innermost first.

    Args:
        default: the scale of texts that give none.
        scale: replaces `default`, and the scales of guidances that are not texts.
    """
    if isinstance(guidance, str):
        texts = re.split(r'\+(?!\s*\d)', guidance)  # not the + of 1e+3
        scale = default if scale is None else scale
        if len(texts) > 1 and not all(map(str.strip, texts)):
            raise UserError('guidance', f'got {guidance!r}', 'must have a guidance on both sides of every +')
        return tuple(_read_modified(text, scale) for text in texts if text.strip())
    if isinstance(guidance, (tuple, list)):
        return tuple(part for each in guidance for part in read_guidance(each, default, scale))
    if isinstance(guidance, Guidance):
        guidance = _read_modifier(guidance) if isinstance(guidance, Modifier) else guidance
        return (guidance if scale is None else scaled(guidance, scale),)
    if not callable(guidance) or isinstance(guidance, (type, Part)):
        kinds = f'one of {", ".join(GUIDANCES)}, a Guidance, or a function from denoiser to denoiser'
        raise UserError('guidance', _given(guidance), f'must be {kinds}')
    return (Function(guidance),)


def text_of(part: Part, known: Mapping[str, type[Part]], omit: str = '', always: str = '') -> str:
    """The text that names a part, with its fields that are not the defaults, except `omit`; and `always`."""
    name = next(name for name, cls in known.items() if cls is type(part))
    fields = {key: field for key, field in (choices(part) | options(part)).items() if key != omit}
    values = {key: getattr(part, key) for key in fields}
    values = {k: v for k, v in values.items() if k == always or np.any(v != fields[k].default)}
    given = [f'{key}={" ".join(v) if isinstance(v, tuple) else v}' for key, v in values.items()]
    return f'{name}:{",".join(given)}' if given else name


def check_respacing(
    diffusion: DiffusionConfig,
    respacing: str,
    timesteps: str = 'fractional',
    stored: Collection[str] = (),
) -> Transition:
    """The grid of a name. UserError unless the process has it; it lists the names of `stored` grids."""
    one_of('timesteps', timesteps, TIMESTEPS)
    if not isinstance(respacing, str):
        raise UserError(
            'respacing', f'got {arguments.shown(respacing)}', "must be a text such as '250' or 'karras:18'"
        )
    try:
        return make_grid(diffusion, respacing, timesteps)
    except ValueError as error:
        names = f'; or a stored grid: {", ".join(stored)}' if stored and ':' not in respacing else ''
        raise UserError('respacing', f'got {respacing!r}', f'{error}{names}') from error


def check_inversion(diffusion: DiffusionConfig, respacing: str, timesteps: str) -> None:
    """UserError unless the grid can be run upwards."""
    grid = check_respacing(diffusion, respacing, timesteps)
    if len(grid.level.t) < 2 or grid.renoise is not None:
        remedy = 'must have at least two levels, and no restarts'
        raise UserError('respacing', f'got {respacing!r}', remedy)


def check_timesteps(diffusion: DiffusionConfig, respacing: str) -> None:
    """UserError unless the grid consists of timesteps of the process."""
    check_respacing(diffusion, respacing)
    if ':' in respacing:
        raise UserError(
            'respacing', f'got {respacing!r}', "a likelihood needs timesteps, such as '' or '250'"
        )


def _given(value: Any) -> str:
    """What was given in place of a sampler or a guidance."""
    for kind, argument in ((Sampler, 'sampler'), (Guidance, 'guidance')):
        if isinstance(value, kind):
            return f'got a {type(value).__name__}, which is a {argument}: give it as {argument}='
    return f'got {arguments.shown(value)}'


def _read_modified(text: str, scale: Any) -> Guidance:
    name, *modifiers = text.split('/')
    if name.partition(':')[0].strip() in MODIFIERS:
        raise UserError('guidance', f'got {text!r}', f'must follow another, as in classifier/{name.strip()}')
    guidance = _read_part('guidance', name, GUIDANCES, scale=scale)
    for modifier in modifiers:
        guidance = _read_modifier(_read_part('guidance', modifier, MODIFIERS, guidance=guidance))
    return guidance


def _read_modifier(modifier: Modifier) -> Modifier:
    """A modifier of a guidance, which may be a text. UserError if it cannot act on that."""
    inner, name = read_guidance(modifier.guidance), type(modifier).__name__
    if len(inner) != 1:
        raise UserError('guidance', f'{name} acts on {len(inner)} guidances', 'give one')
    last = innermost(inner[0])
    problem = f'{name} acts on {type(last).__name__}'
    if isinstance(modifier, (Reuse, GradientModifier)) and not inner[0].has_gradient:
        raise UserError('guidance', f'{problem}, which has no gradient', f'leave out {name}')
    if isinstance(modifier, Varying) and 'scale' not in options(last):
        raise UserError('guidance', f'{problem}, which has no scale', 'give another guidance')
    if isinstance(modifier, (APG, Rescale)) and not isinstance(last, Extrapolation):
        raise UserError('guidance', f'{problem}, which is no extrapolation', 'give one, as classifier_free')
    if isinstance(modifier, APG) and isinstance(inner[0], (APG, Rescale, Varying, Interval)):
        raise UserError('guidance', f'APG acts on {type(inner[0]).__name__}', 'give apg before it')
    if isinstance(modifier, Interval) and not np.all(np.asarray(modifier.low) <= modifier.high):
        remedy = f'must be at most high, which is {modifier.high}'
        raise UserError('guidance.low', f'got {modifier.low}', remedy)
    return dataclasses.replace(modifier, guidance=inner[0])


def _read_part(where: str, text: str, known: Mapping[str, type[Part]], **defaults: Any) -> Any:
    """The part that a text names. defaults: of fields that the text omits and the part has."""
    name, colon, given = (piece.strip() for piece in text.partition(':'))
    one_of(where, name, known)
    if colon and not given.strip(' ,'):
        raise UserError(where, f'got {text!r}', f'give options after the colon, or only {name}')
    numbers, structure = options(known[name]), choices(known[name])
    names = [field.name for field in dataclasses.fields(known[name])]
    fields = {key: value for key, value in defaults.items() if key in names}
    seen: set[str] = set()
    for argument in filter(None, map(str.strip, given.split(','))):
        key, _, value = (piece.strip() for piece in argument.partition('='))
        if key in seen:
            raise UserError(where, f'got {text!r}', f'give {key} once')
        seen.add(key)
        if key in structure:
            fields[key] = arguments.read_choice(f'{where}.{key}', value, structure[key].metadata['values'])
        elif key in numbers:
            fields[key] = _number(f'{where}.{key}', value, numbers[key].metadata)
        elif 'weights' in names:
            weight = _number(f'{where}.{key}', value, WEIGHT)
            fields['weights'] = (*fields.get('weights', ()), (int(key) if key.isdecimal() else key, weight))
        else:
            every = [*structure, *numbers]
            has = f'options are {", ".join(every)}' if every else 'it has no options'
            raise UserError(where, f'got {text!r}: {name} has no option {key!r}', has)
    if 'weights' in names and 'weights' not in fields:
        raise UserError(where, f'got {text!r}: no class has a weight', f'such as {name}:7=0.5,8=0.5')
    return known[name](**fields)


def _number(where: str, value: str, limits: Mapping[str, Any]) -> Any:
    """An option's value."""
    number: Any = value
    with contextlib.suppress(ValueError):
        number = (int if limits['whole'] else float)(value)
    arguments.number(where, number, limits)
    return number
