"""Extrapolation from a weak denoiser to a strong one: classifier-free guidance and its relatives.

    ε̂ = ε_weak + w·(ε_strong − ε_weak)

The relatives differ in the weak denoiser alone:

    classifier_free    the model without a class                         2207.12598, whose w is ours minus 1
    icg                a random class                                    2407.02687
    auto               a smaller or less trained network                 2406.02507
    pag                the model whose self-attention is the identity    2403.17377, whose s is w minus 1

Each costs one more evaluation of a network. Between two Gaussians the result is affine in x_t; for w other
than 0 and 1 its law is not p_strong^w·p_weak^(1−w), whatever the sampler.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, align, from_eps


class Extrapolation(Guidance):
    """Extrapolation from `weak(models)` to the denoiser, in eps and `mean`.

    Attributes:
      scale: w; 1 is the denoiser, 0 the weak one.
    """

    scale: Number = option(default=1.0, per_image=True)
    before_clip: ClassVar[bool] = True

    def weak(self, models: Models) -> Denoiser:
        raise NotImplementedError

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        weak = self.weak(models)

        def guided(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            (ours, one), (theirs, two) = denoise(x_t, level, memory[0]), weak(x_t, level, memory[1])

            def between(strong: Array, weak: Array) -> Array:
                return weak + align(self.scale, x_t) * (strong - weak)

            x_0, eps, *_ = from_eps(between(ours.eps, theirs.eps), x_t, level)
            mean = None if ours.mean is None or theirs.mean is None else between(ours.mean, theirs.mean)
            return ours._replace(x_0=x_0, eps=eps, mean=mean), (one, two)

        return denoise._replace(call=guided, init=lambda x_T: (denoise.init(x_T), weak.init(x_T)))


class ClassifierFreeGuidance(Extrapolation):
    """Extrapolation from the model without a class to the model with it, trained with label dropout.

    Attributes:
      scale: w; 1 is the conditional model, 0 the unconditional one.
    """

    needs: ClassVar[tuple[str, ...]] = ('null',)

    def weak(self, models: Models) -> Denoiser:
        return models.null


class ICG(Extrapolation):
    """Extrapolation from a random class to the class (independent condition guidance).

    It needs no label dropout. Every image gets a class of its own at every evaluation, uniform over all. The
    mean of the weak prediction is the average over the classes, which is not the prediction of their mixture:
    that weighs each class by p(k|x_t). The two agree where σ is large.

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


class AutoGuidance(Extrapolation):
    """Extrapolation from a second diffusion model, for the same classes or without classes.

    The released unconditional model gives the released conditional one classifier-free guidance.

    Attributes:
      scale: w; 1 is the model, 0 the second one.
    """

    needs: ClassVar[tuple[str, ...]] = ('weak',)

    def weak(self, models: Models) -> Denoiser:
        return models.weak


class PAG(Extrapolation):
    """Extrapolation from the model with the identity as self-attention (perturbed-attention guidance).

    In some blocks each pixel attends to itself alone. It needs no classes and no other network.

    Attributes:
      scale: w; 1 is the model.
      blocks: of the network: 'middle', 'encoder.14', 'decoder.3'. For the released models of 256×256 the
        authors use encoder.14, encoder.16, encoder.17 and middle.
    """

    blocks: tuple[str, ...] = static(default=('middle',), values=tuple)
    needs: ClassVar[tuple[str, ...]] = ('perturbed',)

    def weak(self, models: Models) -> Denoiser:
        return models.perturbed(self.blocks)
