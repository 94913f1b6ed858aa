"""Networks with their parameters and conditioning closed over: what samplers and guidance work with."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax import models
from diffusion_jax.diffusion.process import Denoiser, Prediction, Transition, predict
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig


def make_denoiser(
    config: UNetConfig,
    params: Params,
    prediction: str,
    y: jax.Array | None,
    low_res: jax.Array | None = None,
) -> Denoiser:
    """The diffusion model as a denoiser.

    Args:
        y: [B], used where the model is class-conditional.
        low_res: float32 [B, h, w, C] in [−1, 1], the images that an upsampler enlarges.
    """
    y = y if config.num_classes else None

    def denoise(x_t: jax.Array, transition: Transition) -> Prediction:
        t = jnp.broadcast_to(transition.level.t, x_t.shape[:1])
        return predict(models.apply(config, params, x_t, t, y, low_res=low_res), x_t, transition, prediction)

    return denoise


def make_log_prob(
    config: ClassifierConfig, params: Params, y: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """log p(y|x_t) of the noise-aware classifier, [B]."""

    def log_prob(x_t: jax.Array, t: jax.Array) -> jax.Array:
        logits = models.apply(config, params, x_t, jnp.broadcast_to(t, x_t.shape[:1]))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]

    return log_prob
