"""Extrapolation from a weak denoiser to a strong one: classifier-free guidance and its relatives.

    ε̂ = ε_weak + w·(ε_strong − ε_weak)

The relatives differ in the weak denoiser alone:

    classifier_free    the model without a class                         2207.12598, whose w is ours minus 1
    icg                a random class                                    2407.02687
    auto               a smaller or less trained network                 2406.02507
    pag                the model whose self-attention is the identity    2403.17377, whose s is w minus 1
    sag                the image blurred where the model looks           2210.00939, whose s is w minus 1

Each costs one more evaluation of a network, sag two. Between two Gaussians the result is affine in x_t; for w
other than 0 and 1 its law is not p_strong^w·p_weak^(1−w), whatever the sampler.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, plain
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import Number, option, static
from diffusion_jax.diffusion.process import Level, Prediction, add_noise, align, from_eps

RADIUS = 15  # of the blur, in pixels; less where the image is smaller


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


class SAG(Extrapolation):
    """Extrapolation away from the prediction for an image that is blurred where the model looks.

        M = [attention that a pixel receives > ψ]
        x̃_t = alpha·(M·blur(x̂_0) + (1−M)·x̂_0) + sigma·ε
        ε̂ = ε(x̃_t) + w·(ε(x_t) − ε(x̃_t))

    The attention is that of one block, the mean over its heads and the sum over the pixels that attend, which
    is 1 on average. It needs no classes and no other network. The evaluations are at x_t, for the attention,
    and at x̃_t.

    Attributes:
      scale: w; 1 is the model.
      blur: the standard deviation of the blur in pixels; the authors use 3 for images of 128×128 and 256×256.
      threshold: ψ, of the attention that a pixel receives.
      block: of the network, as in `PAG`.
    """

    blur: Number = option(default=3.0, least=1e-3)
    threshold: Number = option(default=1.0)
    block: str = static(default='middle', values=str)
    needs: ClassVar[tuple[str, ...]] = ('perturbed', 'attended')

    @property
    def blocks(self) -> tuple[str, ...]:
        return (self.block,)

    def weak(self, models: Models) -> Denoiser:
        attended, denoise = models.attended(self.block), models.perturbed(())

        def predict(x_t: Array, level: Level) -> Prediction:
            prediction, received = attended(x_t, level)
            mask = jnp.asarray(received > self.threshold, x_t.dtype)[..., None]
            mask = jax.image.resize(mask, (*x_t.shape[:3], 1), 'nearest')
            x_0 = prediction.x_0 + mask * (gaussian_blur(prediction.x_0, self.blur) - prediction.x_0)
            blurred, _ = denoise(add_noise(x_0, prediction.eps, level), level)
            return blurred

        return plain(predict)


def gaussian_blur(x: Array, std: Number) -> Array:
    """Images [B, H, W, C], blurred with a standard deviation in pixels, above 0; the edges are reflected."""
    rows, columns = (_blur_matrix(size, std).astype(x.dtype) for size in x.shape[1:3])
    return jnp.einsum('ih,jw,bhwc->bijc', rows, columns, x, precision='highest')


def _blur_matrix(size: int, std: Number) -> Array:
    """[size, size]: row i has the weights of all pixels of a line in pixel i."""
    radius, here = min(RADIUS, size - 1), np.arange(size)[:, None]
    offsets = np.arange(-radius, radius + 1)
    weights = jax.nn.softmax(-0.5 * (offsets / std) ** 2)
    source = np.pad(np.arange(size), radius, mode='reflect')[here + radius + offsets]
    return jnp.zeros((size, size)).at[here, source].add(weights)
