"""From the arguments of a caller to a Request: checked, cast only where no value changes, on the devices."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.checks import INT32, one_of
from diffusion_jax.diffusion.guidance import Guidance
from diffusion_jax.diffusion.recipe import Recipe, innermost
from diffusion_jax.diffusion.samplers import Sampler
from diffusion_jax.errors import UserError
from diffusion_jax.generation import arguments, options
from diffusion_jax.generation.labels import Labels, read_labels
from diffusion_jax.generation.sampling import Request
from diffusion_jax.models import UNetConfig
from diffusion_jax.sharding import put_global

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator


def make_request(
    model: Generator,
    num_images: int,
    y: Labels | None = None,
    *,
    first: int = 0,
    seed: int = 0,
    recipe: str | Recipe | None = None,
    sampler: str | Sampler | None = None,
    respacing: str | None = None,
    guidance: options.Guidances | None = None,
    scale: Any = None,
    clip: bool | None = None,
    timesteps: str | None = None,
    low_res: np.ndarray | None = None,
    x_T: np.ndarray | None = None,
) -> Request:
    """A request for images of a model, padded to a multiple of the number of devices.

    Args:
        y: one class for all images or one for each, by number or by name; needed by a model that is
            conditional, and by guidance with a classifier.
        first: the images are those with the indices first, first + 1, … of the seed, from 0 to 2³¹ − 1.
        seed: from 0 to 2³² − 1.
        recipe: a name in `model.recipes`, or a Recipe; what follows changes it.
        sampler: a text such as 'ddim' or 'heun:s_churn=40', or a Sampler.
        respacing: the noise levels, such as '250', 'ddim25' or 'karras:18'; see `diffusion.grids`.
        guidance: a text such as 'classifier:scale=2', a Guidance, a function from denoiser to denoiser, or
            several of them, the innermost first; '' is none.
        scale: of all guidances but those whose text gives one; at least 0, one for all images or one for
            each. A recipe without guidance gets that of the classifier, unless `guidance` is given.
        clip: clamps x_0 to [−1, 1] in every step, before guidance by gradients.
        timesteps: 'fractional' or 'nearest', for levels that are not those of trained timesteps.
        low_res: uint8 [num_images, h, w, C], needed by an upsampler; of the size that it was trained to
            enlarge, which its weights do not say.
        x_T: float32 [num_images, H, W, C], what to start from instead of the seed's noise.

    Raises:
        UserError: an argument is missing, has another shape or type, is out of range or not finite, or has
            nothing to act on.
    """
    num_images = arguments.whole_number('num_images', num_images, 1)
    first = arguments.whole_number('first', first, below=INT32 - num_images + 1)
    seed = arguments.whole_number('seed', seed, below=2**32)
    if scale is not None:
        scale = arguments.one_for_each('scale', scale, num_images, np.float32)
    recipe = read_recipe(
        model,
        recipe,
        scale,
        sampler=sampler,
        guidance=guidance,
        respacing=respacing,
        clip=clip,
        timesteps=timesteps,
    )
    recipe = options.traced(recipe, num_images)
    image = (num_images, *model.unet.image_size, model.unet.image_channels)
    for each in map(innermost, recipe.guidance):
        if getattr(each, 'log_prob', None) is not None:
            options.check_log_prob(each.log_prob, image)
    rows = {
        'index': np.arange(first, first + num_images, dtype=np.int32),
        'y': labels(model, num_images, y, recipe),
        'low_res': low_res_images(model, num_images, low_res),
        'x_T': None if x_T is None else full_images(model, 'x_T', x_T, num_images, np.float32),
    }
    recipe = jax.tree.map(
        lambda a: put(model, np.asarray(a)) if np.shape(a)[:1] == (num_images,) else jnp.asarray(a), recipe
    )
    return Request(seed=jnp.uint32(seed), recipe=recipe, **put(model, rows))


ARGUMENTS = tuple(inspect.signature(make_request).parameters)[3:]  # by keyword


def labels(model: Generator, num_images: int, y: Labels | None, recipe: Recipe | None = None) -> np.ndarray:
    """int32 [num_images]; zeros for a model without classes."""
    num_classes = model.unet.num_classes
    if num_classes is None and recipe is not None and 'log_prob' in recipe.needs:
        num_classes = model.classifier.num_classes
    return read_labels(y, num_images, num_classes, model.classes)


def full_images(model: Generator, name: str, images: Any, num_images: int, dtype: type) -> np.ndarray:
    """Images of the model's size."""
    shape = (num_images, *model.unet.image_size, model.unet.image_channels)
    return arguments.check_array(name, images, shape, dtype)


def low_res_images(model: Generator, num_images: int, low_res: np.ndarray | None) -> np.ndarray | None:
    """The images that an upsampler enlarges, None for any other model."""
    if model.unet.low_res != (low_res is not None):
        problem = 'is missing; this model enlarges images' if model.unet.low_res else 'is of no use here'
        raise UserError(f'low_res {problem}')
    if low_res is None:
        return None
    size = np.shape(low_res)[1:3] if np.ndim(low_res) == 4 else ('h', 'w')
    return arguments.check_array('low_res', low_res, (num_images, *size, model.unet.image_channels), np.uint8)


def put(model: Generator, rows: Any) -> Any:
    """Rows on the devices; the last is repeated until their number is a multiple of the number of devices."""

    def fill(row: np.ndarray) -> np.ndarray:
        padding = -len(row) % model.mesh.size
        return np.concatenate([row, np.repeat(row[-1:], padding, axis=0)])

    return put_global(model.mesh, jax.tree.map(fill, rows))


def read_recipe(
    model: Generator, recipe: str | Recipe | None, scale: np.ndarray | None = None, **changes: Any
) -> Recipe:
    """A recipe of the model with the changes that are not None. UserError unless the model supports it."""
    recipes = dict(model.recipes)
    if recipe is None or isinstance(recipe, str):
        name = model.recipes[0][0] if recipe is None else recipe
        one_of('recipe', name, recipes)
        recipe = recipes[name]
    if not isinstance(recipe, Recipe):
        raise UserError(f'recipe is {recipe!r}; give a Recipe, or one of {", ".join(recipes)}')
    changes = {key: value for key, value in changes.items() if value is not None}
    given = changes.pop('guidance', None)
    recipe = dataclasses.replace(recipe, **changes)
    recipe = dataclasses.replace(recipe, sampler=options.read_sampler(recipe.sampler))
    if given is not None:
        recipe = dataclasses.replace(recipe, guidance=_read_guidance(given, scale, recipe.scale))
    else:
        recipe = dataclasses.replace(recipe, guidance=options.read_guidance(recipe.guidance))
        if scale is not None and (scale.any() or recipe.guidance or model.classifier):
            recipe = recipe.with_scale(scale)
    scales = [getattr(innermost(guidance), 'scale', None) for guidance in recipe.guidance]
    if scale is not None and scale.any() and not any(each is scale for each in scales):
        raise UserError('scale is given, and no guidance for it: each has a scale of its own, or none')
    _check_recipe(model, recipe)
    return recipe


def _read_guidance(given: options.Guidances, scale: np.ndarray | None, default: Any) -> tuple[Guidance, ...]:
    """Guidances with a scale; that in a text takes precedence. default: of texts that give none."""
    if isinstance(given, (tuple, list)):
        return tuple(guidance for each in given for guidance in _read_guidance(each, scale, default))
    if isinstance(given, str):
        return options.read_guidance(given, default if scale is None else scale)
    guidance = options.read_guidance(given)
    return guidance if scale is None else Recipe(guidance=guidance).with_scale(scale).guidance


def _check_recipe(model: Generator, recipe: Recipe) -> None:
    options.check_respacing(model.diffusion, recipe.respacing, recipe.timesteps)
    if not isinstance(recipe.clip, (bool, np.bool_)):
        raise UserError(f'clip is {recipe.clip!r}; it must be True or False')
    if 'log_prob' in recipe.needs and model.classifier is None:
        raise UserError(
            'the recipe is guided by a classifier, and there is none; give one to load, leave out scale, or '
            "give a guidance of your own or guidance=''"
        )
    if 'null' in recipe.needs:
        check_null_class(model.unet)


def check_at(model: Generator, sigma: Any, y: Any, recipe: Recipe) -> None:
    """UserError for arguments of `Generator.at` that cannot work; traced ones are not known yet."""
    if model.unet.low_res or model.diffusion.prediction == 'previous_x':
        kind = 'an upsampler' if model.unet.low_res else "a model that predicts 'previous_x'"
        raise UserError(f'{kind} is no function of x and σ alone')
    if y is None and (model.unet.num_classes or 'log_prob' in recipe.needs):
        raise UserError('y is None; give the class of every image')
    if not isinstance(sigma, jax.core.Tracer):
        arguments.check_positive('sigma', sigma)
    if y is None or isinstance(y, jax.core.Tracer):
        return
    null = bool(model.unet.label_dropout) and 'log_prob' not in recipe.needs
    num_classes = model.unet.num_classes or (model.classifier and model.classifier.num_classes) or 1
    array = arguments.one_for_each('y', y, np.size(y), np.int32)
    if array.min() < -null or array.max() >= num_classes:
        raise UserError(f'y is {y}; give a class from {-null:d} to {num_classes - 1} for every image')


def check_null_class(unet: UNetConfig) -> None:
    """UserError unless the model was trained with the null class."""
    if unet.num_classes is None:
        raise UserError('guidance is classifier_free; it needs a class-conditional diffusion model')
    if not unet.label_dropout:
        raise UserError(
            'guidance is classifier_free; it needs a diffusion model that was trained with '
            'config.unet.label_dropout, such as 0.1'
        )
