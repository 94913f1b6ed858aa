"""Training losses of a diffusion model, per example.

    L_simple = mean (target − output)²                                      DDPM (2006.11239), eq. 14
    L_vlb    = KL(q(x_{t-1}|x_t, x_0) ‖ p(x_{t-1}|x_t)), but at t = 0      Improved DDPM (2102.09672), eq. 4-7
               −log p(x_0|x_t)
    L_hybrid = L_simple + λ·L_vlb, with L_vlb's gradient for the variance   Improved DDPM, eq. 16
               only

L_vlb is in bits per dimension.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.process import (
    Gaussian,
    Prediction,
    Transition,
    align,
    edm_target,
    is_last,
    posterior,
    predict,
    split,
    true_posterior,
)


def image_mean(x: Array) -> Array:
    """The mean over all axes but the first, [B]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def normal_kl(p: Gaussian, q: Gaussian) -> Array:
    """KL(p ‖ q) in nats, elementwise."""
    return 0.5 * (
        q.log_variance
        - p.log_variance
        - 1
        + jnp.exp(p.log_variance - q.log_variance)
        + (p.mean - q.mean) ** 2 * jnp.exp(-q.log_variance)
    )


def standard_normal_cdf(x: Array) -> Array:
    """Φ(x) ≈ ½·(1 + tanh(√(2/π)·(x + 0.044715x³))), the approximation in all published likelihoods."""
    return jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def discretized_gaussian_log_likelihood(x: Array, mean: Array, log_scale: Array) -> Array:
    """log of the mass of N(mean, exp(log_scale)²) at the pixel value x, elementwise, at least log 1e-12.

    Pixel value k is the interval of width 2/255 around x = k/127.5 − 1; the intervals of 0 and 255 are
    unbounded (DDPM, eq. 13).
    """
    inverse_scale = jnp.exp(-log_scale)
    upper = inverse_scale * (x - mean + 1 / 255)
    lower = inverse_scale * (x - mean - 1 / 255)
    below, above = standard_normal_cdf(upper), standard_normal_cdf(-lower)
    # In the tail on its own side, where Φ is small, the difference keeps its digits in float32.
    inside = jnp.where(x > mean, above - standard_normal_cdf(-upper), below - standard_normal_cdf(lower))
    mass = jnp.where(x < -0.999, below, jnp.where(x > 0.999, above, inside))
    return jnp.log(jnp.maximum(mass, 1e-12))


def vb_term(prediction: Prediction, x_0: Array, x_t: Array, transition: Transition, variance: str) -> Array:
    """The transition's term of the variational bound, [B] (Improved DDPM, eq. 4-7)."""
    model = posterior(prediction, x_t, transition, variance)
    kl = image_mean(normal_kl(true_posterior(x_0, x_t, transition), model))
    nll = -image_mean(discretized_gaussian_log_likelihood(x_0, model.mean, 0.5 * model.log_variance))
    return jnp.where(is_last(transition), nll, kl) / math.log(2)


def training_target(x_0: Array, x_t: Array, eps: Array, transition: Transition, kind: str) -> Array:
    """The correct output of a network of this kind (see `predict`)."""
    level = align(transition.level, x_0)
    return {
        'eps': eps,
        'x_0': x_0,
        'v': level.alpha * eps - level.sigma * x_0,
        'edm': edm_target(x_0, eps, transition.level),
        'previous_x': true_posterior(x_0, x_t, transition).mean,
    }[kind]


def diffusion_loss(
    output: Array,
    x_0: Array,
    x_t: Array,
    eps: Array,
    transition: Transition,
    kind: str,
    variance: str,
    loss: str,
    num_timesteps: int,
) -> dict[str, Array]:
    """The losses of a network's output, [B] each: 'loss', and its parts 'mse' and 'vb' if it has them.

    Args:
      kind, variance: see `predict` and `posterior`.
      loss: 'mse' is L_simple, or L_hybrid with λ = 1 if the variance is learned; 'rescaled_mse' has
        λ = num_timesteps/1000. (λ = 0.001 in the paper weights the sum over all timesteps.) 'kl' is L_vlb;
        'rescaled_kl' is num_timesteps times that, an estimate of the sum.
    """
    if loss in ('kl', 'rescaled_kl'):
        vb = vb_term(predict(output, x_t, transition, kind), x_0, x_t, transition, variance)
        return {'loss': vb * num_timesteps if loss == 'rescaled_kl' else vb}
    value, raw_variance = split(output, x_t)
    mse = image_mean((training_target(x_0, x_t, eps, transition, kind) - value) ** 2)
    if raw_variance is None:
        return {'loss': mse, 'mse': mse}
    frozen = jnp.concatenate([jax.lax.stop_gradient(value), raw_variance], axis=-1)
    vb = vb_term(predict(frozen, x_t, transition, kind), x_0, x_t, transition, variance)
    if loss == 'rescaled_mse':
        vb *= num_timesteps / 1000
    return {'loss': mse + vb, 'mse': mse, 'vb': vb}
