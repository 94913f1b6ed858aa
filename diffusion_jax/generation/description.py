"""A model and its recipes in the words of the command line, for people who print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffusion_jax.data.classes import listed
from diffusion_jax.diffusion.guidance import GUIDANCES, MODIFIERS, Function, Guidance, Modifier
from diffusion_jax.diffusion.parts import Part
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import SAMPLERS
from diffusion_jax.generation.options import read_guidance, read_sampler, text_of

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator


def describe_model(model: Generator) -> str:
    """Its images, networks and classes, and its recipes: the default in full, the others by name."""
    (height, width), low = model.unet.image_size, model.low_res_size
    size = f'{height}×{width}×{model.unet.image_channels}'
    if model.unet.low_res:
        size = f'upsampler from {"{}×{}".format(*low) if low else "smaller images"} to {size}'
    guided = 'no classifier' if model.classifier is None else 'with a classifier'
    guided += ', with a weak model' if model.weak else ''
    classes = f', {len(model.classes)} classes: {listed(model.classes)}' if model.classes else ''
    marks = dict(model.marks)
    names = [f'{name}: {marks[name]}' if name in marks else name for name, _ in model.recipes]
    recipes = ''.join(f'\n    {name}' for name in names) if marks else f' {", ".join(names)}'
    default = describe_recipe(model.recipes[0][1])
    grids = f'; grids: {", ".join(name for name, _ in model.grids)}' if model.grids else ''
    return f'{size}, {guided}{classes}; default: {default}{grids}; recipes:{recipes}'


def describe_recipe(recipe: Recipe) -> str:
    """Such as 'sampler ddim, respacing ddim25, guidance classifier:scale=3.0'."""
    guidance = ' + '.join(map(_guidance, read_guidance(recipe.guidance)))
    guided = f'guidance {guidance}' if guidance else 'unguided'
    steps = f'respacing {recipe.respacing}' if recipe.respacing else 'all timesteps'
    return f'sampler {_text(read_sampler(recipe.sampler), SAMPLERS)}, {steps}, {guided}'


def _guidance(guidance: Guidance) -> str:
    if isinstance(guidance, Modifier):
        return f'{_guidance(guidance.guidance)}/{_text(guidance, MODIFIERS)}'
    if isinstance(guidance, Function):
        return getattr(guidance.function, '__name__', type(guidance.function).__name__)
    return _text(guidance, GUIDANCES)


def _text(part: Part, known: Mapping[str, type[Part]]) -> str:
    """The text that names a part, with its scale; the name of its class if it is none of the known ones."""
    return text_of(part, known, always='scale') if type(part) in known.values() else type(part).__name__
