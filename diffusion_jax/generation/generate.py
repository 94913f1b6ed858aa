"""From sample indices to images: one pure function, the whole sampler in one compiled program.

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
from diffusion_jax.diffusion.guidance import classifier_guidance, clip
from diffusion_jax.diffusion.process import Denoiser
from diffusion_jax.diffusion.samplers.ddim import ddim_reverse_loop, ddim_step
from diffusion_jax.diffusion.samplers.ddpm import ddpm_step
from diffusion_jax.diffusion.samplers.loop import initial_noise, sample_loop
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


class Drawn(NamedTuple):
    """Attributes:
    images: uint8 [B, H, W, C].
    finite: bool [B], whether x_0 was finite before it became an image; what was not is black.
    """

    images: jax.Array
    finite: jax.Array


def sample_keys(seed: jax.Array, index: jax.Array) -> jax.Array:
    """One key for each sample index [B]."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed, impl='threefry2x32'), i))(index)


def make_generate(
    unet: UNetConfig,
    classifier: ClassifierConfig | None,
    diffusion: DiffusionConfig,
    sampler: str,
    respacing: str,
    clip_x_0: bool,
) -> Callable[[dict[str, Any], Request], Drawn]:
    """(params, request) → images, to be jitted by the caller.

    `params` holds 'diffusion', and 'classifier' where a classifier is given; without one nothing is guided.
    What is fixed here: the sampler and its steps, clipping (see SampleConfig) and the shapes.
    """
    table = transitions(schedule_of(diffusion, respacing))

    def generate(params: dict[str, Any], request: Request) -> Drawn:
        denoise = _denoiser(unet, params, diffusion, request.y, request.low_res, clip_x_0)
        if classifier is not None:
            log_prob = make_log_prob(classifier, params['classifier'], request.y)
            denoise = classifier_guidance(denoise, log_prob, request.scale)
        step = _make_step(sampler, denoise, diffusion.variance, request.eta)
        keys = sample_keys(request.seed, request.index)
        x_T = request.x_T
        if x_T is None:
            x_T = initial_noise(keys, (*unet.image_size, unet.image_channels))
        x_0 = sample_loop(step, table, keys, x_T)
        return Drawn(to_uint8(x_0), jnp.isfinite(x_0).all(axis=(1, 2, 3)))

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


def _make_step(sampler: str, denoise: Denoiser, variance: str, eta: jax.Array) -> Callable:
    """(x_t, transition, noise) → x_{t−1}."""
    if sampler == 'ddpm':
        return lambda x_t, transition, noise: ddpm_step(denoise, x_t, transition, noise, variance)
    return lambda x_t, transition, noise: ddim_step(denoise, x_t, transition, noise, eta)


def make_labels(config: SampleConfig, num_classes: int, index: jax.Array) -> jax.Array:
    """The class of each sample [B]; like the image, it rests on the seed and the index alone."""
    classes = jnp.asarray(config.classes or range(num_classes), jnp.int32)
    if config.labels == 'balanced':
        return classes[index % len(classes)]
    keys = sample_keys(config.seed, index)
    return classes[jax.vmap(lambda key: jax.random.randint(key, (), 0, len(classes)))(keys)]
