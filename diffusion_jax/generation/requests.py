"""From the arguments of a caller to a Request, checked and on the devices."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from diffusion_jax.checks import INT32, between, one_of
from diffusion_jax.diffusion.guidance import innermost
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError
from diffusion_jax.generation import arguments, guides, options, sampling
from diffusion_jax.generation.arguments import check_array, first_step, one_for_each, traced, whole_number
from diffusion_jax.generation.functions import check_functions
from diffusion_jax.generation.labels import Labels, labels
from diffusion_jax.generation.measurements import checked
from diffusion_jax.generation.populations import check_population
from diffusion_jax.generation.program import jitted
from diffusion_jax.generation.sampling import Request
from diffusion_jax.settings import nearest
from diffusion_jax.sharding import batch_sharding, replicated

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
    scale: Any = None,
    low_res: np.ndarray | None = None,
    low_res_noise: Any = 0.0,
    x_T: np.ndarray | None = None,
    **changes: Any,
) -> Request:
    """A request for images, on the devices, padded to a multiple of their number.

    Args:
        y: one class for all images or one for each, by number or by name; read by a conditional model, and
            by guidance with a classifier. −1, without such guidance, is no class (`label_dropout`).
        first, seed: the images are those with the indices first, first + 1, … of the seed.
        recipe: a name in `model.recipes`, or a Recipe.
        scale: of all guidances except those whose text gives one; one for all images or one for each. A
            recipe without guidance gets that of the classifier, unless `guidance` is given.
        low_res: uint8 [num_images, h, w, C], needed by an upsampler; of its `low_res_size`, if known.
        low_res_noise: of noise on low_res, see `SampleConfig`; one for all images or one for each.
        x_T: float32 [num_images, H, W, C], the start; by default the seed's noise.
        changes: of the recipe, see `Recipe`: respacing, clip, timesteps;
            sampler: a text such as 'ddim' or 'heun:s_churn=40', or a Sampler;
            guidance: a text such as 'classifier:scale=2', a Guidance, a function from denoiser to denoiser,
            or several of them, the innermost first; '' is none.
    """
    num_images = whole_number('num_images', num_images, 1)
    first = whole_number('first', first, below=INT32 - num_images + 1)
    scale = None if scale is None else one_for_each('scale', scale, num_images, np.float32)
    recipe = read_recipe(model, recipe, scale, **changes)
    recipe = guides.with_class_weights(recipe, num_images, model.classifier, model.classes)
    images = jax.ShapeDtypeStruct((num_images, *model.unet.image_size, model.unet.image_channels), np.float32)
    request = Request(
        seed=np.uint32(whole_number('seed', seed, below=2**32)),
        index=np.arange(first, first + num_images, dtype=np.int32),
        y=labels(model, num_images, y, recipe),
        recipe=checked(traced(recipe, num_images), images),
        low_res=_low_res_images(model, num_images, low_res),
        x_T=None if x_T is None else full_images(model, 'x_T', x_T, num_images, np.float32),
        low_res_noise=_low_res_noise(model, num_images, low_res_noise, recipe),
    )
    check_population(recipe, num_images, {key: getattr(request, key) for key in ('y', 'recipe', 'low_res')})
    request = put(model, num_images, request, recipe.sampler.population)
    check_functions(model, recipe, len(request.index))
    return request


def _low_res_images(model: Generator, num_images: int, low_res: Any) -> np.ndarray | None:
    """The images that an upsampler enlarges, None for any other model."""
    if model.unet.low_res:
        if low_res is None:
            raise UserError('low_res', 'got None', 'give the images that this model enlarges')
        size = model.low_res_size or ('h', 'w')
        return check_array('low_res', low_res, (num_images, *size, model.unet.image_channels), np.uint8)
    if low_res is not None:
        raise UserError('low_res', 'given to a model that is no upsampler', 'leave it out')
    return None


def _low_res_noise(model: Generator, num_images: int, noise: Any, recipe: Recipe) -> np.ndarray | None:
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


def put(model: Generator, num_images: int, tree: Any, population: int = 1) -> Any:
    """Arrays of the host on the devices; rows [num_images, …] are split over them, all others replicated.

    The last population (by default the last row) is repeated until the number of rows is a multiple of the
    number of devices.
    """
    padding = np.arange(-num_images % math.lcm(population, model.mesh.size)) % population

    def place(array: Any) -> jax.Array:
        array, sharding = np.asarray(array), replicated(model.mesh)
        if array.shape[:1] == (num_images,):
            array = np.concatenate([array, array[-population:][padding]])
            sharding = batch_sharding(model.mesh)
        return jax.device_put(array, sharding)

    return jax.tree.map(place, tree)


def of_images(
    model: Generator,
    images: np.ndarray,
    y: Labels | None,
    recipe: Recipe,
    *,
    index: Any = None,
    **how: Any,
) -> tuple[Request, jax.Array, int]:
    """A request for given images, the images on the devices, and their number; how: see `make_request`."""
    images = full_images(model, 'images', images, 'B', np.uint8)
    number = len(images)
    request = make_request(model, number, y, recipe=recipe, **how)
    if index is not None:
        index = check_array('index', index, (number,), np.int32)
        whole_number('index', index.min())
        request = request._replace(index=put(model, number, index))
    return request, put(model, number, images), number


def from_images(
    model: Generator, request: Request, levels: Level, num_images: int, images: Any, start: Any
) -> tuple[Request, int]:
    """The request that starts from noised images, and the number of steps that are skipped."""
    if images is None or start is None:
        raise UserError('images', 'given without start, or start without images', 'give both')
    check_starts_from_images(request)
    done = first_step(levels, start)
    images = full_images(model, 'images', images, num_images, np.uint8)
    check_population(request.recipe, num_images, {'images': images})
    level = Level(*(values[done] for values in levels))
    images, level = put(model, num_images, (images, level), request.recipe.sampler.population)
    return request._replace(x_T=jitted(sampling.noised)(images, request, level)), done


def check_starts_from_images(request: Request) -> None:
    """UserError if x_T is given, too, or the sampler does not start from x_T."""
    if request.x_T is not None:
        raise UserError('x_T', 'given in addition to images', 'give one of them')
    sampler = request.recipe.sampler
    if not sampler.keeps_start:
        problem = f'{type(sampler).__name__} starts from the measurement'
        remedy = 'set given_y=False' if hasattr(sampler, 'given_y') else 'use another sampler'
        raise UserError('images', problem, remedy)


def full_images(model: Generator, name: str, images: Any, num_images: int | str, dtype: type) -> np.ndarray:
    """Images of the model's size."""
    shape = (num_images, *model.unet.image_size, model.unet.image_channels)
    return check_array(name, images, shape, dtype)


def read_recipe(
    model: Generator,
    recipe: str | Recipe | None,
    scale: Any = None,
    guidance: options.Guidances | None = None,
    **changes: Any,
) -> Recipe:
    """A recipe of the model with the changes that are not None. UserError unless the model supports it."""
    recipes, grids = dict(model.recipes), dict(model.grids)
    if not isinstance(recipe, Recipe):
        name = model.recipes[0][0] if recipe is None else recipe
        if not isinstance(name, str) or name not in recipes:
            remedy = f'must be one of {", ".join(recipes)}, or a Recipe'
            raise UserError('recipe', f'got {arguments.shown(recipe)}', remedy)
        recipe = recipes[name]
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes.keys() - {*fields}:
        known = [*list(inspect.signature(make_request).parameters)[2:-1], *fields]
        meant = nearest(name, known)
        remedy = f'did you mean {meant[0]}?' if meant else f'must be one of {", ".join(known)}'
        raise UserError(name, 'is no argument of a request', remedy)
    changes = {name: value for name, value in changes.items() if value is not None}
    recipe = dataclasses.replace(recipe, **changes)
    recipe = dataclasses.replace(
        recipe,
        respacing=grids.get(recipe.respacing, recipe.respacing),
        sampler=options.read_sampler(recipe.sampler),
        guidance=options.read_guidance(recipe.guidance),
    )
    if guidance is not None:
        guidance = options.read_guidance(guidance, recipe.scale, scale)
        recipe = dataclasses.replace(recipe, guidance=guidance)
    elif scale is not None and (scale.any() or recipe.guidance or model.classifier):
        recipe = recipe.with_scale(scale)
    scales = [getattr(innermost(each), 'scale', None) for each in recipe.guidance]
    if scale is not None and scale.any() and not any(each is scale for each in scales):
        raise UserError('scale', 'given without a guidance that uses it', 'leave it out')
    grid = options.check_respacing(model.diffusion, recipe.respacing, recipe.timesteps, grids)
    if grid.renoise is not None and recipe.sampler.population > 1:
        remedy = f'{type(recipe.sampler).__name__} needs levels that fall'
        raise UserError('respacing', f'got {recipe.respacing!r}', remedy)
    one_of('clip', recipe.clip, (True, False))
    guides.check_needs(model, recipe)
    return recipe


def labels_at(model: Generator, sigma: Any, y: Any, recipe: Recipe) -> Any:
    """The labels of `Generator.at`. UserError for arguments that cannot work; traced ones are not checked."""
    if model.unet.low_res or model.diffusion.prediction == 'previous_x':
        problem = "is an upsampler or predicts 'previous_x', and so is no function of x and σ alone"
        raise UserError('model', problem)
    if not isinstance(sigma, jax.core.Tracer):
        if not (one_for_each('sigma', sigma, np.size(sigma), np.float32) > 0).all():
            raise UserError('sigma', f'got {sigma}', 'must be above 0')
    if isinstance(y, jax.core.Tracer):
        return y
    return labels(model, np.size(y), y, recipe)
