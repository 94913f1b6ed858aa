"""What a sampler is, and the loop that all samplers share.

A sampler is a pair of pure functions over a state, as in optax. The noise of an image depends on its own key
and on nothing else.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser, score_shift
from diffusion_jax.diffusion.parts import Part
from diffusion_jax.diffusion.process import Gaussian, Level, Prediction, Transition, align
from diffusion_jax.diffusion.schedules import row

# i → the i-th draw of N(0, 1) of this step, like x; sampled when it is called. A traced i is at least 1.
Noise = Callable[[Array | int], Array]
# (position, i) → the i-th draw of the step at this position, 1 … N; the first draw at position 0 is x_T.
NoiseAt = Callable[[Array | int, Array | int], Array]
# (state before a step, the first prediction in it before its gradient is applied, transition) → any pytree.
Record = Callable[[Any, Prediction, Transition], Any]
# The state of the sampler and the memory of the denoiser.
Carry = tuple[Any, Any]


class Image(NamedTuple):
    """The state of a sampler that carries x alone."""

    x: Array


class Started(NamedTuple):
    """The state of a sampler whose first step is another: x, and whether a step was made, [] bool."""

    x: Array
    started: Array


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

    def unguided(self) -> 'Sampler':
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


def noise_of(keys: Array, shape: tuple[int, ...]) -> NoiseAt:
    """N(0, 1), float32 [B, *shape], from one typed key for each image."""

    def noise_at(position: Array | int, i: Array | int) -> Array:
        first = isinstance(i, int) and i == 0

        def draw(key: Array) -> Array:
            key = jax.random.fold_in(key, position)
            return jax.random.normal(key if first else jax.random.fold_in(key, i), shape, jnp.float32)

        return jax.vmap(draw)(keys)

    return noise_at


def sample(
    sampler: Sampler,
    denoise: Denoiser,
    grid: Transition,
    noise_at: NoiseAt,
    x_T: Array,
    *,
    record: Record | None = None,
    remat: bool = False,
) -> tuple[Any, Any]:
    """Runs the sampler from x_T, at the first level of a grid, through all its transitions.

    Where `grid.renoise` is True, noise is added up to the next level, and the sampler starts again from there
    (RePaint, 2201.09865; Restart, 2306.14878).

    Args:
      grid: arrays [N], the first transition first.
      record: what to keep of every step; where only noise is added, the prediction is 0.
      remat: recomputes each step in a backward pass, which then keeps one state a step.

    Returns:
      The last state, whose x is x_0; and the records of all steps, stacked, [N, …], or None.
    """
    step = _stepper(sampler, denoise, grid, noise_at, record)
    positions = jnp.arange(1, len(grid.level.t) + 1)
    carry = start(sampler, denoise, x_T)
    (state, _), records = jax.lax.scan(jax.checkpoint(step) if remat else step, carry, positions)
    return state, records


def start(sampler: Sampler, denoise: Denoiser, x_T: Array) -> Carry:
    """The state and the memory before the first step."""
    return sampler.init(x_T), denoise.init(x_T)


def advance(
    sampler: Sampler,
    denoise: Denoiser,
    grid: Transition,
    noise_at: NoiseAt,
    carry: Carry,
    done: Array,
    until: Array,
) -> Carry:
    """The steps done + 1, …, until of `sample`; both are int32 [] and traced."""
    step = _stepper(sampler, denoise, grid, noise_at, None)
    return jax.lax.fori_loop(done + 1, until + 1, lambda position, carry: step(carry, position)[0], carry)


def evaluations(sampler: Sampler, grid: Transition, done: int = 0) -> int:
    """The number of evaluations of the denoiser for each image after `done` steps; the grid is NumPy."""
    asked = np.where(np.asarray(grid.next.sigma) == 0, sampler.last_evaluations, sampler.evaluations)
    if grid.renoise is not None:
        asked = np.where(np.asarray(grid.renoise), 0, asked)
    return int(asked[done:].sum())


def _stepper(
    sampler: Sampler, denoise: Denoiser, grid: Transition, noise_at: NoiseAt, record: Record | None
) -> Callable[[Carry, Array], tuple[Carry, Any]]:
    """(carry, position 1 … N) → the carry after the step at this position, and its record."""
    grid = jax.tree.map(jnp.asarray, grid)

    def step(carry: Carry, position: Array) -> tuple[Carry, Any]:
        transition, noise = row(grid, position - 1), functools.partial(noise_at, position)

        def sampled(carry: Carry) -> tuple[Carry, Any]:
            state, memory = carry
            estimate = denoise
            if record is not None:
                estimate, memory = _keep_first(denoise, state.x, transition.level, memory)
            shifted = estimate if sampler.shifts_mean else score_shift(estimate)
            following, memory = sampler.step(shifted, state, memory, transition, noise)
            if record is None:
                return (following, memory), None
            memory, prediction, _ = memory
            return (following, memory), record(state, prediction, transition)

        def renoised(carry: Carry) -> tuple[Carry, Any]:
            """x ~ q(x_next|x_t) at a noisier level, where the sampler starts again."""
            (state, memory), records = carry, None
            if record is not None:
                nothing = _no_prediction(denoise, state.x, transition.level, memory)
                records = record(state, nothing, transition)
            mean_xt, log_beta = align((transition.mean_xt, transition.log_beta), state.x)
            x = Gaussian(mean_xt * state.x, jnp.exp(log_beta), log_beta).draw(noise(0))
            return (sampler.restart(state, x), memory), records

        if grid.renoise is None:
            return sampled(carry)
        return jax.lax.cond(transition.renoise, renoised, sampled, carry)

    return step


def _keep_first(denoise: Denoiser, x_t: Array, level: Level, memory: Any) -> tuple[Denoiser, Any]:
    """The denoiser that keeps its first prediction in its memory, and the initial memory."""

    def call(x_t: Array, level: Level, memory: Any) -> tuple[Prediction, Any]:
        inner, kept, asked = memory
        prediction, inner = denoise(x_t, level, inner)
        kept = jax.tree.map(lambda old, new: jnp.where(asked, old, new), kept, prediction)
        return prediction, (inner, kept, jnp.ones_like(asked))

    nothing = _no_prediction(denoise, x_t, level, memory)
    return denoise._replace(call=call), (memory, nothing, jnp.zeros((), bool))


def _no_prediction(denoise: Denoiser, x_t: Array, level: Level, memory: Any) -> Prediction:
    """Zeros, like the denoiser's prediction."""
    shape = jax.eval_shape(denoise.call, x_t, level, memory)[0]
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shape)
