"""From a request to images, and from images to noise and likelihoods: pure functions with static networks.

Image i depends on (seed, i) alone: x_T and the noise of every step come from the key `fold_in(key(seed), i)`,
whatever batch and device it is sampled in. The exception is `SMC`: a population of images depends on the seed
and the index of its first image.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.diffusion import variational_bound
from diffusion_jax.diffusion.denoiser import Denoiser, clip
from diffusion_jax.diffusion.grids import inversion, make_grid
from diffusion_jax.diffusion.guidance import Models
from diffusion_jax.diffusion.parts import Part, static
from diffusion_jax.diffusion.process import Level, Transition, add_noise, augment
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import loop, sample
from diffusion_jax.diffusion.samplers.loop import Carry, NoiseAt, Record, noise_of
from diffusion_jax.diffusion.schedules import schedule_of, transitions
from diffusion_jax.errors import UserError
from diffusion_jax.generation.networks import (
    WEAK,
    Networks,
    make_attended,
    make_denoiser,
    make_log_prob,
    make_logits,
)
from diffusion_jax.images import to_float, to_uint8
from diffusion_jax.models import NULL_CLASS, Params

# Folded into the key of an image for the random numbers of guidance and for the noise on the image that an
# upsampler enlarges; the positions of steps are smaller.
GUIDANCE, LOW_RES = 2**31 - 1, 2**31 - 2


class Request(NamedTuple):
    """What is sampled: a pytree whose structure selects a compiled program; see `Recipe`.

    Attributes:
        seed: uint32 [].
        index: int32 [B], which samples of that seed.
        y: int32 [B], their classes.
        low_res: uint8 [B, h, w, C], the images that an upsampler enlarges.
        x_T: float32 [B, H, W, C], the start; by default sampled from the seed.
        low_res_noise: float32 [B], the standard deviation of noise on `low_res`; see `augment`.
    """

    seed: Any
    index: Any
    y: Any
    recipe: Recipe
    low_res: Any = None
    x_T: Any = None
    low_res_noise: Any = None


class Samples(Part):
    """The result of sampling.

    Attributes:
        images: uint8 [B, H, W, C].
        x_0: float32 [B, H, W, C], the same images before they are clamped and truncated; None if not
            requested.
        records: the records of all steps, such as a Trajectory; None if nothing was recorded.
        log_weight: float32 [B], of samplers whose images have weights; otherwise None.
        evaluations: the number of evaluations of the guided denoiser for each image. Each evaluates the
            network once, and once more for each guidance by extrapolation, such as classifier-free guidance;
            `sag` twice more.
        base: the Samples of the base model that a Cascade enlarged.
    """

    images: Any
    x_0: Any = None
    records: Any = None
    log_weight: Any = None
    evaluations: int = static(default=0)
    base: Any = None


class Parts(NamedTuple):
    """The arguments of `samplers.sample` for a request."""

    sampler: Any
    denoise: Denoiser
    grid: Transition
    noise_at: NoiseAt
    x_T: jax.Array


def make_parts(networks: Networks, params: dict[str, Params], request: Request) -> Parts:
    """Sampler, guided denoiser, grid, noise and start of a request."""
    recipe, denoise = request.recipe, guided_denoiser(networks, params, request)
    if recipe.sampler.population > 1 and denoise.log_prob is None:
        if not all(each.before_clip for each in recipe.guidance):
            problem = f'has no log-probability, by which {type(recipe.sampler).__name__} weighs particles'
            raise UserError('guidance', problem, 'use one such as classifier, reconstruction or reward')
    noise_at = noise_of(
        sample_keys(request.seed, request.index), (*networks.unet.image_size, networks.unet.image_channels)
    )
    return Parts(
        recipe.sampler,
        denoise,
        make_grid(networks.diffusion, recipe.respacing, recipe.timesteps),
        noise_at,
        noise_at(0, 0) if request.x_T is None else request.x_T,
    )


def guided_denoiser(networks: Networks, params: dict[str, Params], request: Request) -> Denoiser:
    """The diffusion model, clipped, with all guidance of the recipe."""
    recipe, y, low_res = request.recipe, request.y, conditioning_images(request)
    grid = recipe.respacing, recipe.timesteps

    def model(y: jax.Array, identity: tuple[str, ...] = ()) -> Denoiser:
        return make_denoiser(networks, params['diffusion'], y, low_res, *grid, identity)

    models = Models(
        null=model(jnp.full_like(y, NULL_CLASS)),
        keys=_keys_of(request, GUIDANCE),
        y=y,
        conditional=model,
        num_classes=networks.unet.num_classes,
        perturbed=functools.partial(model, y),
        attended=functools.partial(
            make_attended, networks, params['diffusion'], y, low_res, recipe.respacing
        ),
    )
    if networks.classifier:
        log_prob = make_log_prob(networks, params['classifier'], y)
        models = models._replace(log_prob=log_prob, logits=make_logits(networks, params['classifier']))
    if networks.weak:
        models = models._replace(weak=make_denoiser(networks.weak, params[WEAK], y, low_res, *grid))
    denoise = model(y)
    for guidance in (each for each in recipe.guidance if each.before_clip):
        denoise = guidance.wrap(denoise, models)
    denoise = clip(denoise) if recipe.clip else denoise
    for guidance in (each for each in recipe.guidance if not each.before_clip):
        denoise = guidance.wrap(denoise, models)
    return denoise


def conditioning_images(request: Request) -> jax.Array | None:
    """What an upsampler enlarges, float32 [B, h, w, C], with the requested noise."""
    if request.low_res is None or request.low_res_noise is None:
        return None if request.low_res is None else to_float(request.low_res)
    shape = request.low_res.shape[1:]
    eps = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(_keys_of(request, LOW_RES))
    return augment(to_float(request.low_res), eps, request.low_res_noise)


def generate(
    networks: Networks,
    params: dict[str, Params],
    request: Request,
    *,
    record: Record | None = None,
    remat: bool = False,
) -> Samples:
    """The complete sampler as one function of arrays, differentiable in each.

    Args:
        params: 'diffusion', and 'classifier' and 'weak' if a guidance needs them.
        record: (state, prediction, transition) → what to keep of every step.
        remat: recomputes each step in a backward pass, which then keeps one state a step.
    """
    parts = make_parts(networks, params, request)
    state, records = sample(*parts, record=record, remat=remat)
    number = loop.evaluations(parts.sampler, parts.grid)
    return Samples(to_uint8(state.x), state.x, records, getattr(state, 'log_weight', None), number)


def start(networks: Networks, params: dict[str, Params], request: Request) -> Carry:
    """The carry that `advance` starts from."""
    parts = make_parts(networks, params, request)
    return loop.start(parts.sampler, parts.denoise, parts.x_T)


def advance(
    networks: Networks,
    params: dict[str, Params],
    request: Request,
    carry: Carry,
    done: jax.Array,
    until: jax.Array,
) -> Carry:
    """The steps done + 1, …, until of `generate`; both are int32 [] and traced."""
    parts = make_parts(networks, params, request)
    return loop.advance(*parts[:4], carry, done, until)


def finish(x_0: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images, uint8 [B, H, W, C], and whether each was finite, bool [B]."""
    return to_uint8(x_0), jnp.isfinite(x_0).all(axis=(1, 2, 3))


def noised(images: jax.Array, request: Request, level: Level) -> jax.Array:
    """uint8 images at a noise level, with the noise x_T of a request."""
    noise_at = noise_of(sample_keys(request.seed, request.index), images.shape[1:])
    return add_noise(to_float(images), noise_at(0, 0), level)


def invert(networks: Networks, params: dict[str, Params], request: Request, images: jax.Array) -> jax.Array:
    """uint8 images [B, H, W, C] → x_T, from which the recipe's sampler makes them again.

    The sampler solves the ODE upwards (2105.05233, appendix F). Its steps are not the inverse of those
    downwards, so more steps, or a higher order, are more exact.
    """
    request = request._replace(x_T=to_float(images))
    sampler, denoise, grid, noise_at, x = make_parts(networks, params, request)
    return sample(sampler, denoise, inversion(grid), noise_at, x)[0].x


def bits_per_dimension(
    networks: Networks, params: dict[str, Params], request: Request, images: jax.Array
) -> dict[str, jax.Array]:
    """The terms of the variational bound of uint8 images; see `variational_bound.bits_per_dimension`.

    request: of its recipe only respacing and clip are used.
    """
    x_0, low_res = to_float(images), conditioning_images(request)
    respacing = request.recipe.respacing
    denoise = make_denoiser(networks, params['diffusion'], request.y, low_res, respacing)
    noise_at = noise_of(sample_keys(request.seed, request.index), x_0.shape[1:])
    return variational_bound.bits_per_dimension(
        clip(denoise) if request.recipe.clip else denoise,
        x_0,
        transitions(schedule_of(networks.diffusion, respacing)),
        lambda row: noise_at(row, 0),
        networks.diffusion.variance,
    )


def sample_keys(seed: Any, index: Any) -> jax.Array:
    """One key for each sample index [B]."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed, impl='threefry2x32'), i))(index)


def _keys_of(request: Request, use: int) -> jax.Array:
    """One key for each image, other than those of its steps."""
    return jax.vmap(lambda key: jax.random.fold_in(key, use))(sample_keys(request.seed, request.index))
