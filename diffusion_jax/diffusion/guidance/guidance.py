"""What a guidance is: a function from denoiser to denoiser, and the part of a recipe that makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb
from diffusion_jax.diffusion.parts import Part, static
from diffusion_jax.diffusion.process import Level, Prediction


class Models(NamedTuple):
    """What a guidance may ask for in addition to the denoiser that it wraps.

    Attributes:
      log_prob: log p(y|x_t) of the noise-aware classifier, for the classes that are sampled.
      null: the diffusion model without a class (label −1), not clipped.
    """

    log_prob: LogProb | None = None
    null: Denoiser | None = None


class Guidance(Part):
    """A part of a recipe. `wrap` is called while a program is traced.

    Attributes:
      before_clip: x_0 is clipped after this guidance, which changes the prediction; otherwise before it.
      needs: the fields of Models that must not be None.
      asks_once: the wrapped denoiser is asked exactly once, at its x_t and level, and not differentiated.
        Then modifiers evaluate it outside of their branches.
    """

    @property
    def before_clip(self) -> bool:
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def asks_once(self) -> bool:
        return False

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        raise NotImplementedError


def ask_first(guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
    """`guide(denoise)`, where `guide` asks once: `denoise` is asked first, outside of every `cond` in it.

    Its memory is the pair (that of `denoise`, that of `guide`).
    """

    def fixed(prediction: Prediction | None) -> Denoiser:
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
    """The part of a guided denoiser's memory that belongs to `denoise`, inside it; and how to replace it.

    For guidances that ask one denoiser or the other: both share this part.
    """
    if jax.tree.structure(memory) == jax.tree.structure(jax.eval_shape(denoise.init, x_t)):
        return memory, lambda replaced: replaced
    if not (isinstance(memory, tuple) and len(memory) == 2):
        raise TypeError("a guidance's memory must be the pair (that of the denoiser it wraps, its own)")
    inner, replace = wrapped_memory(memory[0], denoise, x_t)
    return inner, lambda replaced: (replace(replaced), memory[1])


class Function(Guidance):
    """A guidance of your own: a function from denoiser to denoiser."""

    function: Callable[[Denoiser], Denoiser] = static()

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return self.function(denoise)


class Modifier(Guidance):
    """A guidance that changes when or how another one acts.

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

    def modify(self, guide: Callable[[Denoiser], Denoiser], denoise: Denoiser) -> Denoiser:
        """What becomes of `guide(denoise)`."""
        raise NotImplementedError

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        def modified(inner: Denoiser) -> Denoiser:
            return self.modify(lambda each: self.guidance.wrap(each, models), inner)

        return ask_first(modified, denoise) if self.asks_once else modified(denoise)
