"""A mixture of Gaussians with full covariances and a linear measurement y = A·x_0 + N(0, s_y²).

Images are [B, 1, 1, d]. The exact denoiser and the exact p(y|x_t) are known; what depends on the level alone
is computed in float64 on the host.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import Denoiser, plain
from diffusion_jax.diffusion.process import Level, Transition, from_x_0


class GaussianMixture(NamedTuple):
    """float64, [K], [K, d], [K, d, d], [k, d], [k], []."""

    weights: np.ndarray
    means: np.ndarray
    covs: np.ndarray
    A: np.ndarray
    y: np.ndarray
    s_y: float

    def on(self, grid: Transition, dtype=np.float32) -> 'Tabulated':
        """The exact models at the levels of a grid and at the clean image."""
        alpha, sigma = (np.append(v, end) for v, end in zip(grid.level[1:], (1.0, 0.0), strict=True))
        a, s = (v.astype(np.float64)[:, None, None, None] for v in (alpha, sigma))
        total = a**2 * self.covs + s**2 * np.eye(self.means.shape[1])
        gain = a * self.covs @ np.linalg.inv(total)
        spread = self.A @ (self.covs - a * gain @ self.covs) @ self.A.T + self.s_y**2 * np.eye(len(self.y))
        found = Tabulated(
            alpha, self.weights, self.means, self.A, self.y, gain, *precision(total), *precision(spread)
        )
        return jax.tree.map(lambda array: jnp.asarray(array, dtype), found)

    def component_probabilities(self, x_0: np.ndarray) -> np.ndarray:
        """p(k|x_0), [..., d] → [..., K]."""
        log_joint = np.log(self.weights) + log_normal(x_0[..., None, :] - self.means, *precision(self.covs))
        return np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=-1, keepdims=True))


class Tabulated(NamedTuple):
    """A mixture at some levels [N]; with gain E[x_0|x_t, k] = means + gain·(x_t − alpha·means)."""

    alpha: jax.Array
    weights: jax.Array
    means: jax.Array
    A: jax.Array
    y: jax.Array
    gain: jax.Array
    precision: jax.Array
    log_det: jax.Array
    y_precision: jax.Array
    y_log_det: jax.Array

    def components(self, x_t, level: Level):
        """The row of the level; log p(k|x_t) [B, K]; E[x_0|x_t, k] [B, K, d]."""
        i = jnp.argmin(jnp.abs(self.alpha - level.alpha))
        residual = x_t[:, 0, 0, None] - self.alpha[i] * self.means
        log_joint = jnp.log(self.weights) + log_normal(residual, self.precision[i], self.log_det[i])
        x_0 = self.means + jnp.einsum('kij,bkj->bki', self.gain[i], residual)
        return i, jax.nn.log_softmax(log_joint), x_0

    def predict(self, x_t, level: Level):
        _, log_weights, x_0 = self.components(x_t, level)
        return from_x_0(jnp.einsum('bk,bki->bi', jnp.exp(log_weights), x_0)[:, None, None], x_t, level)

    def denoiser(self, **fields) -> Denoiser:
        return plain(self.predict, **fields)

    def log_prob(self, x_t, level: Level):
        """log p(y|x_t), [B], normalized; at the clean level log N(y; A·x_0, s_y²)."""
        i, log_weights, x_0 = self.components(x_t, level)
        residual = self.y - jnp.einsum('mi,bki->bkm', self.A, x_0)
        log_likelihood = log_normal(residual, self.y_precision[i], self.y_log_det[i])
        return jax.nn.logsumexp(log_weights + log_likelihood, axis=1)


def precision(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse and log det(2π·covariance)."""
    return np.linalg.inv(covariance), np.linalg.slogdet(2 * np.pi * covariance)[1]


def log_normal(residual, precision, log_det):
    """log N(residual; 0, covariance), [..., K, d] → [..., K]."""
    einsum = np.einsum if isinstance(residual, np.ndarray) else jnp.einsum
    return -0.5 * (einsum('...ki,kij,...kj->...k', residual, precision, residual) + log_det)
