"""From sample indices to images: pure functions, the whole sampler in one compiled program.

Image i rests on (seed, i) alone: its start x_T and the noise of every step come from the key
`fold_in(key(seed), i)`, whatever batch and device it is drawn in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.data.transforms import to_float, to_uint8
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import LogProb, classifier_guidance, clip, log_prob_guidance
from diffusion_jax.diffusion.process import Denoiser, Transition
from diffusion_jax.diffusion.samplers.ddim import ddim_reverse_loop, ddim_step
from diffusion_jax.diffusion.samplers.ddpm import ddpm_step
from diffusion_jax.diffusion.samplers.loop import initial_noise, sample_loop, sample_steps
from diffusion_jax.diffusion.schedules import schedule_of, transitions
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.denoiser import make_denoiser, make_log_prob
from diffusion_jax.models import ClassifierConfig, UNetConfig


class Request(NamedTuple):
    """What may change from call to call without compiling again.

    Attributes:
        seed: uint32 scalar.
        index: int32 [B], which samples of that seed.
        y: int32 [B], their classes.
        scale: float32 scalar or [B], s of classifier guidance.
        eta: float32 scalar, of DDIM.
        low_res: uint8 [B, h, w, C], the images that an upsampler enlarges.
        x_T: float32 [B, H, W, C], the noise to start from; by default it is drawn from the seed.
    """

    seed: jax.Array
    index: jax.Array
    y: jax.Array
    scale: jax.Array
    eta: jax.Array
    low_res: jax.Array | None = None
    x_T: jax.Array | None = None


def sample_keys(seed: jax.Array, index: jax.Array) -> jax.Array:
    """One key for each sample index [B]."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed, impl='threefry2x32'), i))(index)


class Trajectory(NamedTuple):
    """Every step of a batch of images. T is the number of steps; the noisiest is the first.

    Attributes:
        t: int or float [T], the timesteps, as the networks see them.
        x_t: float32 [T, B, H, W, C], what each step starts from; x_t[0] is the initial noise.
        x_0: float32 [T, B, H, W, C], the model's estimate of the image at each step, clipped where sampling
            clips it, before guidance moves it.
        images: uint8 [B, H, W, C], the result.
    """

    t: jax.Array
    x_t: jax.Array
    x_0: jax.Array
    images: jax.Array


class Recipe(NamedTuple):
    """What a sampling program is compiled for.

    Attributes:
        classifier: guides where it is given.
        sampler, respacing, clip: see SampleConfig.
        log_prob: guides in addition to the classifier, at the same scale.
    """

    unet: UNetConfig
    classifier: ClassifierConfig | None
    diffusion: DiffusionConfig
    sampler: str
    respacing: str
    clip: bool
    log_prob: LogProb | None = None

    @property
    def table(self) -> Transition:
        return transitions(schedule_of(self.diffusion, self.respacing))


def make_generate(*recipe: Any) -> Callable[[dict[str, Any], Request], jax.Array]:
    """(params, request) → uint8 images [B, H, W, C]: the whole sampler, to be jitted by the caller.

    `params` holds 'diffusion', and 'classifier' where a classifier is given; without one nothing is guided.

    Args:
        recipe: the fields of a Recipe. They are fixed, like the shapes.
    """
    recipe = Recipe(*recipe)

    def generate(params: dict[str, Any], request: Request) -> jax.Array:
        step = _make_step(recipe, params, request)
        keys = sample_keys(request.seed, request.index)
        return to_uint8(sample_loop(step, recipe.table, keys, _start(recipe, request, keys)))

    return generate


def make_start(recipe: Recipe) -> Callable[[Request], jax.Array]:
    """request → the x_T that its images start from, for `make_advance`."""
    return lambda request: _start(recipe, request, sample_keys(request.seed, request.index))


def make_advance(
    recipe: Recipe,
) -> Callable[[dict[str, Any], Request, jax.Array, jax.Array, jax.Array], jax.Array]:
    """(params, request, x, done, until) → x: the part of the sampler after `done` steps, up to `until`.

    One program computes all parts, since `done` and `until` are traced. A host that calls it several times
    for a batch can report progress and be interrupted, and the program can be kept in the compilation cache,
    which programs that call back to the host cannot.
    """

    def advance(
        params: dict[str, Any], request: Request, x_t: jax.Array, done: jax.Array, until: jax.Array
    ) -> jax.Array:
        step = _make_step(recipe, params, request)
        return sample_steps(step, recipe.table, sample_keys(request.seed, request.index), x_t, done, until)

    return advance


def make_trajectory(recipe: Recipe) -> Callable[[dict[str, Any], Request], tuple[jax.Array, Any]]:
    """(params, request) → x_0, and t, x_t and the estimate of x_0 at every step; see Trajectory."""

    def generate(params: dict[str, Any], request: Request) -> tuple[jax.Array, Any]:
        denoise = _make_denoiser(recipe, params, request)

        def step(x_t: jax.Array, transition: Transition, noise: jax.Array) -> tuple[jax.Array, Any]:
            prediction = denoise(x_t, transition)
            following = _sampler(recipe, lambda *_: prediction, request.eta)(x_t, transition, noise)
            return following, (transition.level.t[0], x_t, prediction.x_0)

        keys = sample_keys(request.seed, request.index)
        x_T = _start(recipe, request, keys)
        return sample_loop(step, recipe.table, keys, x_T, has_aux=True)

    return generate


def make_invert(
    unet: UNetConfig, diffusion: DiffusionConfig, respacing: str, clip_x_0: bool
) -> Callable[[dict[str, Any], jax.Array, jax.Array], jax.Array]:
    """(params, uint8 images [B, H, W, C], y [B]) → x_T, from which unguided DDIM with η = 0 makes them again.

    The more steps the better: each takes the prediction at its start for the one at its end.
    """
    table = transitions(schedule_of(diffusion, respacing))

    def invert(params: dict[str, Any], images: jax.Array, y: jax.Array) -> jax.Array:
        denoise = _denoiser(unet, params, diffusion, y, None, clip_x_0)
        return ddim_reverse_loop(denoise, table, to_float(images))

    return invert


def _start(recipe: Recipe, request: Request, keys: jax.Array) -> jax.Array:
    if request.x_T is not None:
        return request.x_T
    return initial_noise(keys, (*recipe.unet.image_size, recipe.unet.image_channels))


def _denoiser(
    unet: UNetConfig,
    params: dict[str, Any],
    diffusion: DiffusionConfig,
    y: jax.Array,
    low_res: jax.Array | None,
    clip_x_0: bool,
) -> Denoiser:
    """The diffusion model without guidance."""
    low_res = None if low_res is None else to_float(low_res)
    denoise = make_denoiser(unet, params['diffusion'], diffusion.prediction, y, low_res)
    return clip(denoise) if clip_x_0 else denoise


def _make_denoiser(recipe: Recipe, params: dict[str, Any], request: Request) -> Denoiser:
    """The diffusion model with all guidance."""
    unet, diffusion = recipe.unet, recipe.diffusion
    denoise = _denoiser(unet, params, diffusion, request.y, request.low_res, recipe.clip)
    if recipe.classifier is not None:
        log_prob = make_log_prob(recipe.classifier, params['classifier'], request.y)
        denoise = classifier_guidance(denoise, log_prob, request.scale)
    if recipe.log_prob is not None:
        denoise = log_prob_guidance(denoise, recipe.log_prob, request.scale)
    return denoise


def _make_step(recipe: Recipe, params: dict[str, Any], request: Request) -> Callable:
    """(x_t, transition, noise) → x_{t−1}."""
    return _sampler(recipe, _make_denoiser(recipe, params, request), request.eta)


def _sampler(recipe: Recipe, denoise: Denoiser, eta: jax.Array) -> Callable:
    variance = recipe.diffusion.variance
    if recipe.sampler == 'ddpm':
        return lambda x_t, transition, noise: ddpm_step(denoise, x_t, transition, noise, variance)
    return lambda x_t, transition, noise: ddim_step(denoise, x_t, transition, noise, eta)


def make_labels(config: SampleConfig, num_classes: int, index: jax.Array) -> jax.Array:
    """The class of each sample [B]; like the image, it rests on the seed and the index alone."""
    classes = jnp.asarray(config.classes or range(num_classes), jnp.int32)
    if config.labels == 'balanced':
        return classes[index % len(classes)]
    keys = sample_keys(config.seed, index)
    return classes[jax.vmap(lambda key: jax.random.randint(key, (), 0, len(classes)))(keys)]
