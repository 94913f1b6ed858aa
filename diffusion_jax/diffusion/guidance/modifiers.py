"""Guidances that change when another one acts: in an interval of noise levels, or every k-th evaluation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, add_gradient
from diffusion_jax.diffusion.guidance.guidance import Guidance, Models
from diffusion_jax.diffusion.parts import LARGEST, Number, option
from diffusion_jax.diffusion.process import Level, Prediction


class Modifier(Guidance):
    """A guidance that changes when or how strongly another one acts.

    Attributes:
      guidance: the other one.
    """

    guidance: Guidance

    @property
    def before_clip(self) -> bool:
        return self.guidance.before_clip

    @property
    def needs(self) -> tuple[str, ...]:
        return self.guidance.needs

    @property
    def asks_once(self) -> bool:
        return self.guidance.asks_once

    @property
    def has_gradient(self) -> bool:
        return self.guidance.has_gradient

    def modify(self, guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
        """The modified `guide(denoise)`."""
        raise NotImplementedError

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        def modified(inner: Denoiser) -> Denoiser:
            return self.modify(lambda each: self.guidance.wrap(each, models), inner)

        return evaluate_first(modified, denoise) if self.asks_once else modified(denoise)


class Interval(Modifier):
    """A guidance in an interval of noise levels (2404.07724); outside it is not computed.

    Attributes:
      low, high: it acts where low ≤ σ < high; σ is that of EDM, sigma/alpha, for images in [−1, 1].
    """

    low: Number = option(default=0.0)
    high: Number = option(default=LARGEST)

    def modify(self, guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
        guided = guide(denoise)
        inside = jax.jit(guided.call)  # keeps the trace, so that each network is traced once

        def choose(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            expected = jax.eval_shape(inside, x_t, level, memory)[0]

            def outside(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
                inner, replace = wrapped_memory(memory, denoise, x_t)
                prediction, inner = denoise(x_t, level, inner)
                for field in ('gradient', 'log_prob'):  # branches must have the same structure
                    shape = getattr(expected, field)
                    if shape is not None and getattr(prediction, field) is None:
                        prediction = prediction._replace(**{field: jnp.zeros(shape.shape, shape.dtype)})
                if expected.mean is None:  # then x_0 determines it
                    prediction = prediction._replace(mean=None)
                return prediction, replace(inner)

            sigma = level.edm_sigma
            acts = (self.low <= sigma) & (sigma < self.high)
            return jax.lax.cond(acts, inside, outside, x_t, level, memory)

        return guided._replace(call=choose)


class Reuse(Modifier):
    """A guidance by a gradient that is computed at every k-th evaluation only (2408.11194).

    Gradients of the guidances before it are added.

    Attributes:
      every: k, counted in evaluations of the denoiser, of which the first computes the gradient. The
        log-probability that belongs to it is kept with it.
    """

    every: Number = option(default=2, least=1, whole=True)

    def modify(self, guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
        bare = apart(denoise)
        guided = guide(bare)

        def choose(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
            memory, (last, last_log_prob, count) = memory

            def fresh(memory: Any) -> tuple[Prediction, Any]:
                prediction, memory = guided(x_t, level, memory)
                if prediction.gradient is None:
                    raise TypeError('only guidance by a gradient can be reused')
                return prediction._replace(log_prob=_log_prob(prediction, x_t)), memory

            def again(memory: Any) -> tuple[Prediction, Any]:
                inner, replace = wrapped_memory(memory, bare, x_t)
                prediction, inner = bare(x_t, level, inner)
                return prediction._replace(gradient=last, log_prob=last_log_prob), replace(inner)

            prediction, memory = jax.lax.cond(count % self.every == 0, fresh, again, memory)
            (_, others), _ = wrapped_memory(memory, bare, x_t)
            own = prediction.gradient, prediction.log_prob, count + 1
            return add_gradient(prediction, *others), (memory, own)

        def init(x_T: Array) -> Any:
            return guided.init(x_T), (*_no_gradient(x_T), jnp.zeros((), jnp.int32))

        return guided._replace(call=choose, init=init)


def apart(denoise: Denoiser) -> Denoiser:
    """The denoiser with its gradient and its log-probability (0 without) moved from prediction to memory."""

    def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        prediction, inner = denoise(x_t, level, memory[0])
        gradient = jnp.zeros_like(x_t) if prediction.gradient is None else prediction.gradient
        moved = gradient, _log_prob(prediction, x_t)
        return prediction._replace(gradient=None, log_prob=None), (inner, moved)

    return denoise._replace(call=call, init=lambda x_T: (denoise.init(x_T), _no_gradient(x_T)))


def _log_prob(prediction: Prediction, x_t: Array) -> Array:
    """Its log-probability [B] in the dtype of x_t; 0 if it has none."""
    value = _no_gradient(x_t)[1] if prediction.log_prob is None else prediction.log_prob
    return value.astype(x_t.dtype)


def _no_gradient(x_t: Array) -> tuple[Array, Array]:
    return jnp.zeros_like(x_t), jnp.zeros(x_t.shape[:1], x_t.dtype)


def evaluate_first(guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
    """`guide(denoise)`, where `guide` asks once: `denoise` is evaluated first, outside of every `cond` in it.

    Its memory is the pair (that of `denoise`, that of `guide`).
    """

    def fixed(prediction: Any) -> Denoiser:
        return denoise._replace(call=lambda x_t, level, memory: (prediction, memory), init=lambda x_T: ())

    def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        inner, own = memory
        prediction, inner = denoise(x_t, level, inner)
        prediction, own = guide(fixed(prediction))(x_t, level, own)
        return prediction, (inner, own)

    def init(x_T: Array) -> Any:
        return denoise.init(x_T), guide(fixed(None)).init(x_T)

    return guide(fixed(None))._replace(call=call, init=init)


def wrapped_memory(memory: Any, denoise: Denoiser, x_t: Array) -> tuple[Any, Callable[[Any], Any]]:
    """The part of a guided denoiser's memory that belongs to `denoise`, inside it; and how to replace it."""
    wrapped: Any = jax.tree.structure(jax.eval_shape(denoise.init, x_t))
    if wrapped == jax.tree.structure(memory):
        return memory, lambda replaced: replaced
    if not (isinstance(memory, tuple) and len(memory) == 2):
        raise TypeError("a guidance's memory must be the pair (that of the denoiser it wraps, its own)")
    inner, replace = wrapped_memory(memory[0], denoise, x_t)
    return inner, lambda replaced: (replace(replaced), memory[1])
