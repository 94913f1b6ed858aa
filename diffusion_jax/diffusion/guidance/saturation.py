"""Remedies for the saturation of extrapolation at large scales; none costs an evaluation of its own.

    threshold:  x̂_0 ← clip(x̂_0, −s, s)/s,  s = max(1, quantile of |x̂_0|)   Imagen, 2205.11487, section 2.3
    rescale:    ε̂ ← φ·std(ε)/std(ε̂)·ε̂ + (1−φ)·ε̂                           2305.08891, eq. 15 and 16
    APG:        m ← D − D_weak + β·m                                         2410.02416, algorithm 1
                u = m·min(1, r/‖m‖)
                D̂ = D + (w−1)·(u⊥ + η·u∥),  split along D

D is the model's prediction of x_0; quantile, std and norms are over one image. The threshold follows other
guidances; rescale and APG act on any `Extrapolation`.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.guidance.modifiers import Modifier, evaluate_first
from diffusion_jax.diffusion.guidance.strength import innermost, scaled
from diffusion_jax.diffusion.parts import LARGEST, Number, option
from diffusion_jax.diffusion.process import Level, Prediction, align, from_eps, from_x_0


def _sum(x: Array) -> Array:
    """Over each image, [B, 1, 1, 1]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def rescaled(strong: Array, guided: Array, phi: Number) -> Array:
    """`guided` with, in part φ, the standard deviation of `strong` within each image."""
    axes = tuple(range(1, strong.ndim))
    ratio = jnp.std(strong, axis=axes, keepdims=True) / jnp.std(guided, axis=axes, keepdims=True)
    return guided * (phi * ratio + 1 - phi)


def projected(update: Array, onto: Array, eta: Number, radius: Number) -> Array:
    """The update, no longer than `radius`, with its part along `onto` multiplied by η."""
    length = jnp.sqrt(_sum(update**2))
    update = update * jnp.minimum(1, radius / jnp.where(length > 0, length, 1))
    square = _sum(onto**2)
    parallel = _sum(update * onto) / jnp.where(square > 0, square, 1) * onto
    return update + (eta - 1) * parallel


class DynamicThreshold(Guidance):
    """Thresholds x_0 at a quantile of each image, in place of clipping: it is in [−1, 1] afterwards.

    Attributes:
      percentile: the quantile, as a fraction; interpolated linearly.
    """

    percentile: Number = option(default=0.995, most=1.0)
    before_clip: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        def thresholded(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            prediction, memory = denoise(x_t, level, memory)
            magnitudes = jnp.abs(prediction.x_0).reshape(len(x_t), -1)
            limit = align(jnp.maximum(jnp.quantile(magnitudes, self.percentile, axis=1), 1.0), x_t)
            x_0, eps, *_ = from_x_0(jnp.clip(prediction.x_0, -limit, limit) / limit, x_t, level)
            return prediction._replace(x_0=x_0, eps=eps), memory

        return denoise._replace(call=thresholded)


class Rescale(Modifier):
    """An extrapolation whose eps gets back, in part, the standard deviation of the model's.

    Attributes:
      phi: φ; 0 changes nothing, 1 keeps the standard deviation. The paper recommends 0.7, for a network that
        predicts v, and rescales v.
    """

    phi: Number = option(default=0.7, most=1)
    asks_once: ClassVar[bool] = True

    def modify(self, guide: Any, denoise: Denoiser) -> Denoiser:
        guided = guide(denoise)

        def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            strong, _ = denoise(x_t, level, denoise.init(x_t))
            prediction, memory = guided(x_t, level, memory)
            x_0, eps, *_ = from_eps(rescaled(strong.eps, prediction.eps, self.phi), x_t, level)
            return prediction._replace(x_0=x_0, eps=eps, mean=None), memory

        return guided._replace(call=call)


class APG(Modifier):
    """An extrapolation whose update is averaged, bounded, and made orthogonal to the prediction of x_0.

    The average m is carried from one evaluation of the denoiser to the next. The update starts at D, as in
    the paper; a public implementation starts at D_weak, which is the same only for plain extrapolation.

    Attributes:
      eta: η, of the part of the update along D.
      radius: r, the largest norm of the update over one image in [−1, 1], before w; by default without limit.
        It depends on the size of the images: published values (2.5 to 15) are for latent images.
      momentum: β; published values are −0.75 to −0.5.
    """

    eta: Number = option(default=0.0, most=1)
    radius: Number = option(default=LARGEST)
    momentum: Number = option(default=0.0, least=-1, most=1)
    asks_once: ClassVar[bool] = True

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        scale = innermost(self.guidance).scale

        def guided(strong: Denoiser) -> Denoiser:
            weak = scaled(self.guidance, 0.0).wrap(strong, models)

            def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
                memory, average = memory
                ours, _ = strong(x_t, level, strong.init(x_t))
                theirs, memory = weak(x_t, level, memory)
                average = ours.x_0 - theirs.x_0 + self.momentum * average
                update = projected(average, ours.x_0, self.eta, self.radius)
                x_0, eps, *_ = from_x_0(ours.x_0 + align(scale - 1, x_t) * update, x_t, level)
                return ours._replace(x_0=x_0, eps=eps, mean=None), (memory, average)

            return weak._replace(call=call, init=lambda x_T: (weak.init(x_T), jnp.zeros_like(x_T)))

        return evaluate_first(guided, denoise)
