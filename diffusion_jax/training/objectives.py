"""The training objective of each kind of network: the loss of every example, and its random inputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffusion_jax import models
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.losses import diffusion_loss
from diffusion_jax.diffusion.process import add_noise, augment, network_input
from diffusion_jax.diffusion.schedules import row, schedule_of, transitions
from diffusion_jax.images import Size, area_downsample, to_float
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig

Inputs = dict[str, jax.Array]
Losses = Callable[[Params, Inputs, jax.Array | None], dict[str, jax.Array]]


class Objective(NamedTuple):
    """What a training step needs to know about a network.

    draw: (key, batch of uint8 images and labels, timesteps [B]) → inputs, a dict of [B, …] arrays. Draws all
        random inputs, before the batch is split into microbatches.
    losses: (params, inputs, key) → a dict of [B] arrays with 'loss', which is minimized; no key, no dropout.
    num_timesteps: t, a row of the schedule, is from 0 to num_timesteps − 1.
    """

    draw: Callable[[jax.Array, dict[str, jax.Array], jax.Array], Inputs]
    losses: Losses
    num_timesteps: int


def draw_noise(key: jax.Array, batch: dict[str, jax.Array], t: jax.Array) -> Inputs:
    """x_0 in [−1, 1], eps ~ N(0, 1), t and y."""
    x_0 = to_float(batch['image'])
    return {'x_0': x_0, 'eps': jax.random.normal(key, x_0.shape, jnp.float32), 't': t, 'y': batch['label']}


def diffusion_objective(
    unet: UNetConfig,
    diffusion: DiffusionConfig,
    low_res_size: Size | None = None,
    low_res_noise: Sequence[float] = (),
) -> Objective:
    """The denoising loss of DDPM and Improved DDPM.

    An upsampler also sees x_0 reduced to `low_res_size`. With `low_res_noise` (low, high), this image gets
    noise of a strength that is uniform between them (see `augment`). With the probability
    `unet.label_dropout` a label becomes the null class (classifier-free guidance, 2207.12598, algorithm 1).
    """
    table = transitions(schedule_of(diffusion))

    def draw(key: jax.Array, batch: dict[str, jax.Array], t: jax.Array) -> Inputs:
        inputs = draw_noise(key, batch, t)
        # Keys of their own: the noise of x_t is that of a training without these options.
        if unet.label_dropout:
            dropped = jax.random.bernoulli(jax.random.fold_in(key, 0), unet.label_dropout, t.shape)
            inputs['y'] = jnp.where(dropped, models.NULL_CLASS, inputs['y'])
        if low_res_size and low_res_noise:
            (low, high), keys = low_res_noise, [jax.random.fold_in(key, number) for number in (1, 2)]
            shape = len(t), *low_res_size, unet.image_channels
            inputs['low_res_noise'] = jax.random.uniform(keys[0], shape[:1], minval=low, maxval=high)
            inputs['low_res_eps'] = jax.random.normal(keys[1], shape, jnp.float32)
        return inputs

    def losses(params: Params, inputs: Inputs, key: jax.Array | None) -> dict[str, jax.Array]:
        transition = row(table, inputs['t'])
        x_t = add_noise(inputs['x_0'], inputs['eps'], transition.level)
        y = inputs['y'] if unet.num_classes else None
        # Made here and not drawn with the inputs: it follows from x_0, and only this loss needs it.
        low_res = area_downsample(inputs['x_0'], low_res_size) if low_res_size else None
        if low_res is not None and low_res_noise:
            low_res = augment(low_res, inputs['low_res_eps'], inputs['low_res_noise'])
        x = network_input(x_t, transition.level, diffusion.prediction)
        output = models.apply(unet, params, x, transition.level.t, y, low_res=low_res, key=key)
        return diffusion_loss(
            output,
            inputs['x_0'],
            x_t,
            inputs['eps'],
            transition,
            kind=diffusion.prediction,
            variance=diffusion.variance,
            loss=diffusion.loss,
            num_timesteps=diffusion.num_timesteps,
        )

    return Objective(draw, losses, diffusion.num_timesteps)


def classifier_objective(classifier: ClassifierConfig, diffusion: DiffusionConfig) -> Objective:
    """Cross entropy of p(y|x_t) at noisy images, and how often y is the first, or among the first five."""
    table = transitions(schedule_of(diffusion))

    def losses(params: Params, inputs: Inputs, key: jax.Array | None) -> dict[str, jax.Array]:
        level = row(table, inputs['t']).level
        x_t = add_noise(inputs['x_0'], inputs['eps'], level)
        logits = models.apply(classifier, params, x_t, level.t, key=key)
        y = inputs['y']
        rank = jnp.sum(logits > jnp.take_along_axis(logits, y[:, None], axis=1), axis=1)
        return {
            'loss': optax.softmax_cross_entropy_with_integer_labels(logits, y),
            'accuracy': (rank < 1).astype(jnp.float32),
            'accuracy_top5': (rank < 5).astype(jnp.float32),
        }

    return Objective(draw_noise, losses, diffusion.num_timesteps)
