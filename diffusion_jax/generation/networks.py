"""Networks as denoisers and log-probabilities, with parameters and conditioning closed over."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import Denoiser, LogProb, plain
from diffusion_jax.diffusion.grids import level_at, nearest_level
from diffusion_jax.diffusion.guidance.classifier import pick
from diffusion_jax.diffusion.process import Level, Prediction, Transition, network_input, predict
from diffusion_jax.diffusion.schedules import row, schedule_of, transitions
from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.sharding import gather_params

WEAK = 'weak'  # the name of the second diffusion model's parameters


class Networks(NamedTuple):
    """The static part of a model, for which its programs are compiled.

    mesh: the parameters are split over its axis 'fsdp'; None if they are not split.
    weak: the second diffusion model, of autoguidance.
    """

    unet: UNetConfig
    diffusion: DiffusionConfig
    classifier: ClassifierConfig | None = None
    mesh: Mesh | None = None
    weak: 'Networks | None' = None


def make_denoiser(
    networks: Networks,
    params: Params,
    y: jax.Array | None,
    low_res: jax.Array | None = None,
    respacing: str = '',
    timesteps: str = 'fractional',
    identity: tuple[str, ...] = (),
) -> Denoiser:
    """The diffusion model as a denoiser, not clipped.

    Args:
      params: of the diffusion model.
      y: [B], used if the model is class-conditional; −1 is no class.
      low_res: float32 [B, h, w, C] in [−1, 1], the images that an upsampler enlarges.
      respacing: the grid, for a network that predicts 'previous_x'.
      timesteps: 'fractional' or 'nearest', for levels between those of the grid.
      identity: the blocks whose self-attention is the identity; see `models.apply`.
    """
    unet, diffusion = networks.unet, networks.diffusion
    read = _reader(networks, respacing)

    def denoise(x_t: jax.Array, level: Level) -> Prediction:
        arguments = _inputs(networks, params, y, x_t, level)
        return read(models.apply(unet, *arguments, low_res=low_res, identity=identity), x_t, level)

    levels = nearest_level if timesteps == 'nearest' else level_at
    previous_x = diffusion.prediction == 'previous_x'
    between = _no_level if previous_x else functools.partial(levels, schedule_of(diffusion))
    return plain(denoise, level_at=between, variance=diffusion.variance)


def make_attended(
    networks: Networks,
    params: Params,
    y: jax.Array | None,
    low_res: jax.Array | None,
    respacing: str,
    block: str,
) -> Callable[[jax.Array, Level], tuple[Prediction, jax.Array]]:
    """(x_t, level) → the prediction of `make_denoiser`, and the attention that pixels of a block receive."""
    read = _reader(networks, respacing)

    def attended(x_t: jax.Array, level: Level) -> tuple[Prediction, jax.Array]:
        arguments = _inputs(networks, params, y, x_t, level)
        output, received = models.apply_with_attention(
            networks.unet, *arguments, low_res=low_res, block=block
        )
        return read(output, x_t, level), received

    return attended


def _inputs(
    networks: Networks, params: Params, y: jax.Array | None, x_t: jax.Array, level: Level
) -> tuple[Any, ...]:
    """Parameters, x, t and y of `models.apply`."""
    t = jnp.broadcast_to(level.t, x_t.shape[:1])
    x = network_input(x_t, level, networks.diffusion.prediction)
    return gather_params(networks.mesh, params, x_t), x, t, y if networks.unet.num_classes else None


def _reader(networks: Networks, respacing: str) -> Callable[[jax.Array, jax.Array, Level], Prediction]:
    """(output, x_t, level) → the prediction."""
    diffusion = networks.diffusion
    previous_x = diffusion.prediction == 'previous_x'
    at = _transitions_of(diffusion, respacing) if previous_x else lambda level: Transition(level, level)
    return lambda output, x_t, level: predict(output, x_t, at(level), diffusion.prediction)


def make_logits(networks: Networks, params: Params) -> LogProb:
    """The logits of the noise-aware classifier, [B, K]."""
    classifier = networks.classifier
    assert classifier is not None

    def logits(x_t: jax.Array, level: Level) -> jax.Array:
        gathered = gather_params(networks.mesh, params, x_t)
        return models.apply(classifier, gathered, x_t, jnp.broadcast_to(level.t, x_t.shape[:1]))

    return logits


def make_log_prob(networks: Networks, params: Params, y: jax.Array) -> LogProb:
    """log p(y|x_t) of the noise-aware classifier, [B]."""
    logits = make_logits(networks, params)
    return lambda x_t, level: pick(jax.nn.log_softmax(logits(x_t, level)), y)


def _no_level(log_snr: jax.Array) -> Level:
    problem = "evaluates between timesteps, where a model that predicts 'previous_x' has no levels"
    raise UserError('sampler', problem, 'use ddpm or ddim')


def _transitions_of(diffusion: DiffusionConfig, respacing: str) -> Callable[[Level], Any]:
    """level → the transition that starts there."""
    table = transitions(schedule_of(diffusion, respacing))
    return lambda level: row(table, jnp.searchsorted(table.level.t, level.t))
