"""Mixtures of Gaussians with any covariances, and linear measurements, from the arrays of a recorded case.

Images are [B, 1, 1, d], levels [].
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import Denoiser, plain
from diffusion_jax.diffusion.inverse import Measurement, dense
from diffusion_jax.diffusion.process import Level, Prediction, Transition, from_x_0
from diffusion_jax.diffusion.schedules import between, make_schedule, to_clean
from tests.parity.case import Case


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """x_0 ~ Σ_k weights_k·N(means_k, covs_k), y = A x_0 + noise·n; float64."""

    weights: np.ndarray
    means: np.ndarray
    covs: np.ndarray
    A: np.ndarray
    y: np.ndarray
    noise: float

    @property
    def size(self) -> int:
        return self.means.shape[1]

    def parts(self, x_t: Any, level: Level):
        """log p(k|x_t) [B, K], E[x_0|x_t, k] [B, K, d], Cov[x_0|x_t, k] [K, d, d]."""
        variances, axes = np.linalg.eigh(self.covs)
        alpha, sigma = level.alpha, level.sigma
        total = alpha**2 * variances + sigma**2
        residual = x_t.reshape(-1, 1, self.size) - alpha * self.means
        coordinates = jnp.einsum('bkd,kde->bke', residual, axes)
        log_joint = jnp.log(self.weights) - 0.5 * jnp.sum(coordinates**2 / total + jnp.log(total), -1)
        x_0 = self.means + jnp.einsum('kde,bke->bkd', axes, coordinates * alpha * variances / total)
        covariance = jnp.einsum('kde,ke,kfe->kdf', axes, variances * sigma**2 / total, axes)
        return jax.nn.log_softmax(log_joint), x_0, covariance

    def predict(self, x_t: Any, level: Level) -> Prediction:
        log_weights, x_0, _ = self.parts(x_t, level)
        mean = jnp.sum(jnp.exp(log_weights)[..., None] * x_0, axis=1)
        return from_x_0(mean.reshape(x_t.shape), x_t, level)

    def denoiser(self, variance: str = 'fixed_small') -> Denoiser:
        return plain(self.predict, variance=variance)

    def log_prob(self, x_t: Any, level: Level):
        """log p(y|x_t), exactly, with its constant."""
        log_weights, x_0, covariance = self.parts(x_t, level)
        spread = self.A @ covariance @ self.A.T + self.noise**2 * np.eye(len(self.y))
        residual = self.y - x_0 @ self.A.T
        squares = jnp.einsum('bki,kij,bkj->bk', residual, jnp.linalg.inv(spread), residual)
        normal = -0.5 * (squares + jnp.linalg.slogdet(2 * np.pi * spread)[1])
        return jax.nn.logsumexp(log_weights + normal, axis=1)

    @functools.cached_property
    def measurement(self) -> Measurement:
        operator = dense(lambda x: x.reshape(len(x), -1) @ self.A.T, (1, 1, self.size))
        return Measurement(operator, self.y[None], self.noise)

    def log_likelihood(self, x_0: Any, level: Level):
        """log p(y|x_0) without its constant."""
        return self.measurement.log_prob(x_0)

    def posterior(self, scale: float):
        """The law p(x)·p(y|x)^scale: weights, means, covs of its components, and the log of its integral."""
        precision = scale * self.A.T @ self.A / self.noise**2
        covs = np.linalg.inv(np.linalg.inv(self.covs) + precision)
        gains = covs @ self.A.T * scale / self.noise**2
        misfit = self.y - self.means @ self.A.T
        means = self.means + np.einsum('kdi,ki->kd', gains, misfit)
        spread = self.A @ self.covs @ self.A.T + self.noise**2 / scale * np.eye(len(self.y))
        squares = np.einsum('ki,kij,kj->k', misfit, np.linalg.inv(spread), misfit)
        log_normal = -0.5 * (squares + np.linalg.slogdet(2 * np.pi * spread)[1])
        # N(y; Ax, s²)^scale is N(y; Ax, s²/scale) times this.
        k = len(self.y)
        factor = (
            0.5 * k * (np.log(2 * np.pi * self.noise**2 / scale) - scale * np.log(2 * np.pi * self.noise**2))
        )
        log_joint = np.log(self.weights) + log_normal + factor
        log_z = np.logaddexp.reduce(log_joint)
        return np.exp(log_joint - log_z), means, covs, log_z


def moments(weights, means, covs):
    """Mean and covariance of a mixture."""
    mean = weights @ means
    apart = means - mean
    return mean, np.einsum('k,kde->de', weights, covs) + np.einsum('k,kd,ke->de', weights, apart, apart)


def model_of(case: Case) -> Model:
    arrays = case.arrays
    if 'weights' in arrays:
        law = arrays['weights'], arrays['means'], arrays['covs']
    else:
        law = np.ones(1), arrays['m'][None], arrays['C'][None]
    return Model(*law, arrays['A'], arrays['y'], float(arrays['s_y']))


def grid_at(timesteps, end: bool = True) -> Transition:
    """The transitions between these timesteps of the linear process, noisiest first.

    end: with the step to the clean image.
    """
    levels = jax.tree.map(lambda a: a[np.asarray(timesteps)], make_schedule('linear', 1000).level)
    return to_clean(levels) if end else between(levels)
