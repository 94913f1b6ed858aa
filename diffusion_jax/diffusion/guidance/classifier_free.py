"""Classifier-free guidance (2207.12598): extrapolation away from the prediction without a class.

    ε̂ = ε_null + w·(ε_y − ε_null)

w is 1 plus the w of that paper's eq. 6. The model must be trained with label dropout. ICG needs no such
training: a class that is sampled independently of x_t takes the place of the null class.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.extrapolation import Extrapolation
from diffusion_jax.diffusion.guidance.guidance import Models
from diffusion_jax.diffusion.process import Level, Prediction


class ClassifierFreeGuidance(Extrapolation):
    """Extrapolation from the model without a class to the model with it.

    Attributes:
      scale: w; 1 is the conditional model, 0 the unconditional one.
    """

    needs: ClassVar[tuple[str, ...]] = ('null',)

    def weak(self, models: Models) -> Denoiser:
        return models.null


class ICG(Extrapolation):
    """Extrapolation from a random class to the class (independent condition guidance, 2407.02687).

    Every image gets a class of its own at every evaluation, uniform over all. The mean of the weak prediction
    is the average over the classes, which is not the prediction of their mixture: that weighs each class by
    p(k|x_t). The two agree where σ is large.

    Attributes:
      scale: w; 1 is the conditional model.
    """

    needs: ClassVar[tuple[str, ...]] = ('conditional', 'keys')

    def weak(self, models: Models) -> Denoiser:
        def call(x_t: Array, level: Level, count: Any) -> tuple[Prediction, Any]:
            def draw(key: Array) -> Array:
                return jax.random.randint(jax.random.fold_in(key, count), (), 0, models.num_classes)

            denoise = models.conditional(jax.vmap(draw)(models.keys))
            return denoise(x_t, level, denoise.init(x_t))[0], count + 1

        return Denoiser(call, lambda x_T: jnp.zeros((), jnp.int32))
