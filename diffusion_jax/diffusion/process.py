"""The diffusion process: levels, transitions, and the one place where parameterizations are converted.

    x_t = alpha·x_0 + sigma·eps,  alpha = √ᾱ_t,  sigma = √(1−ᾱ_t)          DDPM (2006.11239), eq. 4
    q(x_{t-1}|x_t, x_0) = N(mean_x0·x_0 + mean_xt·x_t, β̃_t)                DDPM, eq. 6 and 7
    p(x_{t-1}|x_t) = N(mean_x0·x̂_0 + mean_xt·x_t, Σ)                       DDPM, eq. 11
    Σ = exp(f·log β_t + (1−f)·log β̃_t)                                     Improved DDPM (2102.09672), eq. 15

A denoiser estimates x_0 (x̂_0) and eps from x_t; whichever its network predicts, the other follows from the
first line. Images are [B, H, W, C], coefficients [] or [B].
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Coefficient = Any  # Array, or np.ndarray on the host
SIGMA_DATA = 0.5  # EDM's σ_data: the standard deviation of the pixels of clean images


class Level(NamedTuple):
    """A noise level: x_t = alpha·x_0 + sigma·eps, alpha² + sigma² = 1; arrays of one shape, [] or [B] or [N].

    t is what the networks' embeddings see, and may be fractional.
    """

    t: Coefficient
    alpha: Coefficient
    sigma: Coefficient

    @property
    def log_snr(self) -> Array:
        """log(alpha²/sigma²); infinite for a clean image."""
        return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))

    @property
    def edm_sigma(self) -> Array:
        """sigma/alpha: the noise of x_t/alpha = x_0 + edm_sigma·eps, which EDM (2206.00364) calls σ."""
        return self.sigma / self.alpha


class Transition(NamedTuple):
    """A step from a level to the next, with the constants of DDPM's Gaussian between them.

    Arrays of one shape. A sampling step leads to a less noisy level, the last one to the clean image, where
    alpha = 1 and sigma = 0.

    Attributes:
      mean_x0, mean_xt: coefficients of the posterior mean.
      log_beta, log_posterior, log_large: see `posterior`.
      num_steps: the number of transitions in the grid that do not add noise.
      renoise: None, or whether this transition adds noise: then the next level is the noisier one, and the
        constants are those of q(x_next|x_t) = N(mean_xt·x_t, exp(log_beta)).
    """

    level: Level
    next: Any = None  # Level
    mean_x0: Coefficient = None
    mean_xt: Coefficient = None
    log_beta: Coefficient = None
    log_posterior: Coefficient = None
    log_large: Coefficient = None
    num_steps: Coefficient = None
    renoise: Coefficient = None


class Prediction(NamedTuple):
    """What a denoiser returns; arrays like x_t.

    variance: the second half of the network's output: the range value v in [−1, 1], or the log-variance.
    mean: the output of a network that predicts x_{t-1}: the posterior mean, also when x_0 is clipped.
    gradient: s·∇ log p(y|x_t), collected by guidance and not yet applied.
    log_prob: s·log p(y|x_t), [B], of the same guidances, up to a constant; only samplers with weights use it.
    """

    x_0: Array
    eps: Array
    variance: Any = None
    mean: Array | None = None
    gradient: Array | None = None
    log_prob: Array | None = None


class Gaussian(NamedTuple):
    """A diagonal normal. The log-variance may be finite where the variance is 0."""

    mean: Array
    variance: Array
    log_variance: Array

    def log_prob(self, x: Array) -> Array:
        """The log-density of images x, [B], computed from the log-variance."""
        squared = (x - self.mean) ** 2 * jnp.exp(-self.log_variance)
        return -0.5 * jnp.sum(
            squared + self.log_variance + math.log(2 * math.pi), axis=tuple(range(1, x.ndim))
        )

    def draw(self, noise: Array) -> Array:
        """mean + √variance·noise; the mean where the variance is 0."""
        return self.mean + jnp.where(self.variance == 0, 0.0, jnp.exp(0.5 * self.log_variance)) * noise


def align(coefficients: Any, x: Array) -> Any:
    """Every array of a pytree, [] or [B], with the trailing axes that let it broadcast against x [B, …]."""
    return jax.tree.map(lambda c: jnp.reshape(c, jnp.shape(c) + (1,) * (x.ndim - jnp.ndim(c))), coefficients)


def is_last(transition: Transition) -> Array:
    """Whether the next level is the clean image."""
    return transition.next.sigma == 0


def add_noise(x_0: Array, eps: Array, level: Level) -> Array:
    """x_t ~ q(x_t|x_0) (DDPM, eq. 4)."""
    level = align(level, x_0)
    return level.alpha * x_0 + level.sigma * eps


def augment(low_res: Array, eps: Array, strength: Array) -> Array:
    """√(1−s²)·z + s·eps on the small image z that an upsampler enlarges (Ho et al. 2021, 2106.15282).

    A base model's images differ from the reduced images of a training; an upsampler that was trained with
    noise depends less on their details. Unlike in the source, the network is not told s.

    Args:
      low_res: z, float [B, h, w, C] in [−1, 1].
      eps: standard normal, like z.
      strength: s, [B], from 0 to below 1.
    """
    return add_noise(low_res, eps, Level(jnp.zeros_like(strength), jnp.sqrt(1 - strength**2), strength))


def marginal(x_0: Array, level: Level) -> Gaussian:
    """q(x_t|x_0) (DDPM, eq. 4)."""
    level = align(level, x_0)
    return Gaussian(level.alpha * x_0, level.sigma**2, 2 * jnp.log(level.sigma))


def from_eps(eps: Array, x_t: Array, level: Level) -> Prediction:
    """The prediction of this eps: x_0 = (x_t − sigma·eps)/alpha."""
    level = align(level, x_t)
    return Prediction((x_t - level.sigma * eps) / level.alpha, eps)


def from_x_0(x_0: Array, x_t: Array, level: Level) -> Prediction:
    """The prediction of this x_0: eps = (x_t − alpha·x_0)/sigma."""
    level = align(level, x_t)
    return Prediction(x_0, (x_t - level.alpha * x_0) / level.sigma)


def from_v(v: Array, x_t: Array, level: Level) -> Prediction:
    """The prediction of v = alpha·eps − sigma·x_0 (Salimans & Ho, 2202.00512, appendix D)."""
    level = align(level, x_t)
    return Prediction(level.alpha * x_t - level.sigma * v, level.sigma * x_t + level.alpha * v)


def from_edm(output: Array, x_t: Array, level: Level) -> Prediction:
    """The prediction of F, the output of a network with EDM's preconditioning (2206.00364, eq. 7, table 1).

    D(x) = c_skip·x + c_out·F for x = x_t/alpha becomes, with s² = sigma² + (σ_data·alpha)²,

        x_0 = σ_data²·alpha/s² · x_t + σ_data·sigma/s · F        eps = sigma/s² · x_t − σ_data·alpha/s · F
    """
    _, alpha, sigma = align(level, x_t)
    s = _edm_scale(alpha, sigma)
    x_0 = SIGMA_DATA**2 * alpha / s**2 * x_t + SIGMA_DATA * sigma / s * output
    return Prediction(x_0, sigma / s**2 * x_t - SIGMA_DATA * alpha / s * output)


def edm_target(x_0: Array, eps: Array, level: Level) -> Array:
    """F of `from_edm` for this x_0 and eps: (σ/σ_data·x_0 − σ_data·alpha·eps)/s, with σ that of the level."""
    _, alpha, sigma = align(level, x_0)
    return (sigma / SIGMA_DATA * x_0 - SIGMA_DATA * alpha * eps) / _edm_scale(alpha, sigma)


def network_input(x_t: Array, level: Level, kind: str) -> Array:
    """What a network of this kind sees: x_t; for 'edm' c_in·x_t/alpha = x_t/s (see `from_edm`)."""
    if kind != 'edm':
        return x_t
    _, alpha, sigma = align(level, x_t)
    return x_t / _edm_scale(alpha, sigma)


def _edm_scale(alpha: Array, sigma: Array) -> Array:
    """s, the standard deviation of x_t if that of x_0 is σ_data."""
    return jnp.sqrt(sigma**2 + (SIGMA_DATA * alpha) ** 2)


def split(output: Array, x_t: Array) -> tuple[Array, Array | None]:
    """The two halves of a network's output: its prediction, and the raw variance if it is learned."""
    channels = x_t.shape[-1]
    return output[..., :channels], output[..., channels:] if output.shape[-1] > channels else None


def predict(output: Array, x_t: Array, transition: Transition, kind: str) -> Prediction:
    """x_0 and eps from the network's output.

    Args:
      output: [B, H, W, C], or [B, H, W, 2C] with the raw variance in the second half.
      transition: only its level is used, unless the network predicts 'previous_x'.
      kind: 'eps' (DDPM, eq. 15), 'x_0', 'v', 'edm' (see `from_edm`) or 'previous_x', the posterior mean.
    """
    value, variance = split(output, x_t)
    if kind == 'previous_x':
        mean_x0, mean_xt = align((transition.mean_x0, transition.mean_xt), x_t)
        x_0 = (value - mean_xt * x_t) / mean_x0
        return from_x_0(x_0, x_t, transition.level)._replace(variance=variance, mean=value)
    convert = {'eps': from_eps, 'x_0': from_x_0, 'v': from_v, 'edm': from_edm}[kind]
    return convert(value, x_t, transition.level)._replace(variance=variance)


def posterior(prediction: Prediction, x_t: Array, transition: Transition, variance: str) -> Gaussian:
    """p(x_{t-1}|x_t), without guidance (DDPM, eq. 11).

    variance: 'fixed_small' is β̃, which is 0 at the last transition; 'fixed_large' is β, but at the last
      transition β̃ of the one before it; 'learned' is the network's log-variance; 'learned_range' lies between
      β̃ (v = −1) and β (v = 1) in the logarithm (Improved DDPM, eq. 15), v not being clamped.
    """
    transition = align(transition, x_t)
    mean, raw = prediction.mean, prediction.variance
    if mean is None:
        mean = transition.mean_x0 * prediction.x_0 + transition.mean_xt * x_t
    if variance == 'learned_range':
        fraction = (raw + 1) / 2
        log_variance = fraction * transition.log_beta + (1 - fraction) * transition.log_posterior
    else:
        log_variance = {
            'fixed_small': transition.log_posterior,
            'fixed_large': transition.log_large,
            'learned': raw,
        }[variance]
    value = jnp.exp(log_variance)
    if variance == 'fixed_small':
        value = jnp.where(is_last(transition), 0.0, value)
    return Gaussian(mean, value, log_variance)


def true_posterior(x_0: Array, x_t: Array, transition: Transition) -> Gaussian:
    """q(x_{t-1}|x_t, x_0) (DDPM, eq. 6 and 7)."""
    return posterior(from_x_0(x_0, x_t, transition.level), x_t, transition, 'fixed_small')
