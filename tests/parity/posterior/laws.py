"""The law of what a sampler makes of x_T ~ N(0, I): exactly for affine steps, otherwise by Monte Carlo."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import score_shift
from diffusion_jax.diffusion.process import Transition
from diffusion_jax.diffusion.samplers import sample
from tests.parity.posterior.methods import Method
from tests.parity.posterior.model import Model

DRAWS = 2  # in one step, at most


class Maps(NamedTuple):
    """Steps x' = F x + c + N(0, Q), [N, …]."""

    F: np.ndarray
    c: np.ndarray
    Q: np.ndarray


class Prober:
    """Reads off the steps of all transitions of a grid; one compiled program for each structure of a method.

    first: bool [N], where the state is that before the first step of a sampling.
    """

    def __init__(self, model: Model, grid: Transition, first: np.ndarray):
        self.model, self.grid, self.first = model, grid, first
        self.number = 1 + model.size * (1 + DRAWS)
        self.program = jax.jit(jax.vmap(self._step, (0, 0, None)))

    def units(self, i: int) -> jax.Array:
        """Images of which those of the i-th group are the unit vectors, and all others 0."""
        rows = np.arange(self.number)[:, None] == 1 + self.model.size * i + np.arange(self.model.size)
        return jnp.asarray(rows, float).reshape(self.number, 1, 1, self.model.size)

    def _step(self, transition: Transition, first: jax.Array, method: Method) -> jax.Array:
        denoise, sampler, x = method.denoiser(self.model), method.sampler, self.units(0)
        denoise = denoise if sampler.shifts_mean else score_shift(denoise)
        states = sampler.init(x), sampler.restart(sampler.init(x), x)
        state = jax.tree.map(lambda a, b: jnp.where(first, a, b), *states)
        noise = lambda i: self.units(1 + i)  # noqa: E731
        following, _ = sampler.step(denoise, state, denoise.init(x), transition, noise)
        return following.x.reshape(self.number, self.model.size)

    def maps(self, method: Method) -> Maps:
        grid, size = self.grid, self.model.size
        rows = np.asarray(self.program(grid._replace(renoise=None), self.first, method))
        apart = rows[:, 1:] - rows[:, :1]
        noise = apart[:, size:]
        maps = Maps(np.swapaxes(apart[:, :size], 1, 2), rows[:, 0], np.swapaxes(noise, 1, 2) @ noise)
        if grid.renoise is None:
            return maps
        up = np.asarray(grid.renoise)[:, None, None]
        eye = np.eye(size)
        return Maps(
            np.where(up, grid.mean_xt[:, None, None] * eye, maps.F),
            np.where(up[..., 0], 0.0, maps.c),
            np.where(up, np.exp(grid.log_beta)[:, None, None] * eye, maps.Q),
        )


def propagate(maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    """Mean [N, d] and covariance [N, d, d] after every step."""
    mean, covariance = np.zeros(maps.c.shape[1]), np.eye(maps.c.shape[1])
    means, covariances = [], []
    for F, c, Q in zip(*maps, strict=True):
        mean, covariance = F @ mean + c, F @ covariance @ F.T + Q
        means.append(mean)
        covariances.append(covariance)
    return np.stack(means), np.stack(covariances)


def whole_chain(method: Method, model: Model, grid: Transition, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x_0, where a step depends on more than x; `draws` in every step.

    The start is σ·N(0, I) in the first level, N(0, (σ/α)²) in the space x_0 + (σ/α)·eps.
    """
    size = model.size
    number = 1 + size * (1 + draws * len(grid.level.t))

    def units(i: Any) -> jax.Array:
        rows = jnp.arange(number)[:, None] == 1 + size * i + jnp.arange(size)
        return rows.astype(float).reshape(number, 1, 1, size)

    def run(method: Method) -> jax.Array:
        def noise_at(position: Any, i: Any) -> jax.Array:
            return units(1 + draws * (position - 1) + i)

        return sample(method.sampler, method.denoiser(model), grid, noise_at, grid.level.sigma[0] * units(0))[
            0
        ].x

    x_0 = np.asarray(jax.jit(run)(method)).reshape(number, size)
    columns = x_0[1:] - x_0[0]
    return x_0[0], columns.T @ columns


def simulate(method: Method, model: Model, grid: Transition, number: int, seed: int = 0) -> np.ndarray:
    """[number, d] of independent chains."""
    key = jax.random.key(seed)

    def run(method: Method) -> jax.Array:
        def noise_at(position: Any, i: Any) -> jax.Array:
            folded = jax.random.fold_in(jax.random.fold_in(key, position), i)
            return jax.random.normal(folded, (number, 1, 1, model.size), float)

        return sample(method.sampler, method.denoiser(model), grid, noise_at, noise_at(0, 0))[0].x

    return np.asarray(jax.jit(run)(method)).reshape(number, model.size)
