"""A sampler is a pair of pure functions over a state, as in optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.parts import Part
from diffusion_jax.diffusion.process import Transition

# i → the i-th draw of N(0, 1) of this step, like x; sampled when it is called. A traced i is at least 1.
Noise = Callable[[Array | int], Array]


class Image(NamedTuple):
    """The state of a sampler that carries x alone."""

    x: Array


class Sampler(Part):
    """A sampler. A subclass is a frozen dataclass and a pytree; see `Part`.

    Attributes:
      evaluations: of the denoiser in one step.
      last_evaluations: in the last step, to the clean image.
      shifts_mean: the sampler applies the gradient of guidance itself (2105.05233, Algorithm 1). All other
        samplers get `score_shift(denoise)`.
      order: of convergence to the probability-flow ODE, with the default options; None if it is random.
      random_option: the option that makes it random unless it is 0, if `order` is not None.
      keeps_start: it starts from x_T; False if the start depends on a measurement instead.
    """

    evaluations: ClassVar[int] = 1
    last_evaluations: ClassVar[int] = 1
    shifts_mean: ClassVar[bool] = False
    order: ClassVar[int | None] = None
    random_option: ClassVar[str | None] = None
    keeps_start: ClassVar[bool] = True

    @property
    def population(self) -> int:
        """The number of consecutive images that depend on each other."""
        return 1

    def unguided(self) -> Sampler:
        """The sampler of the same recipe without guidance."""
        return self

    def init(self, x_T: Array) -> Any:
        """The state before the first step: a pytree that has x."""
        return Image(x_T)

    def restart(self, state: Any, x: Array) -> Any:
        """The state after a transition that adds noise, which made x from the state's."""
        return self.init(x)

    def step(
        self, denoise: Denoiser, state: Any, memory: Any, transition: Transition, noise: Noise
    ) -> tuple[Any, Any]:
        """The state and the denoiser's memory after a transition; levels are [] in the loop."""
        raise NotImplementedError
