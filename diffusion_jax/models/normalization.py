"""Group normalization (Wu & He, 1803.08494) together with the activation that follows it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

GROUPS = 32


class GroupNorm(nnx.Module):
    """Group normalization with 32 groups; statistics in float32."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array, modulation: jax.Array | None = None, *, silu: bool = True) -> jax.Array:
        """Normalize x [B, ..., C] over everything in between and the channels of a group.

        Args:
            x: float32 or bfloat16, which is the dtype of the result too.
            modulation: [B, 2C], a scale e_s and a shift e_b: (1 + e_s)·GroupNorm(x) + e_b, the adaptive
                group normalization of the paper (section 3.1).
            silu: apply SiLU to the result.
        """
        scale, shift = self.scale[...], self.bias[...]
        if modulation is not None:
            e_s, e_b = jnp.split(modulation, 2, axis=-1)
            scale, shift = (1 + e_s) * scale, (1 + e_s) * shift + e_b
        per_image = (x.shape[0], x.shape[-1])
        return group_norm(x, jnp.broadcast_to(scale, per_image), jnp.broadcast_to(shift, per_image), silu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def group_norm(x: jax.Array, scale: jax.Array, shift: jax.Array, silu: bool) -> jax.Array:
    """silu(scale·(x − μ)/σ + shift), where μ and σ² + 1e-5 are those of 32 groups of channels of an image.

    x [B, ..., C]; scale and shift [B, C] in float32. All arithmetic is in float32, the result in x's dtype.
    The gradient is written by hand: autodiff would store intermediate images in float32, and read them in
    more passes. Here each direction reads its images twice: once for sums, once for the result.
    """
    return _forward(x, scale, shift, silu)[0]


def _forward(x: jax.Array, scale: jax.Array, shift: jax.Array, silu: bool) -> tuple[jax.Array, tuple]:
    mean, inverse = _statistics(x)
    z = (x.astype(jnp.float32) - _over(mean, x)) * _over(inverse * scale, x) + _over(shift, x)
    y = nnx.silu(z) if silu else z
    return y.astype(x.dtype), (x, scale, shift, mean, inverse)


def _backward(silu: bool, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, shift, mean, inverse = residuals
    centered = x.astype(jnp.float32) - _over(mean, x)
    g = g.astype(jnp.float32)
    if silu:
        z = centered * _over(inverse * scale, x) + _over(shift, x)
        sigmoid = nnx.sigmoid(z)
        g *= sigmoid * (1 + z * (1 - sigmoid))
    g_shift = _pixels(g, jnp.sum)
    g_scale = inverse * _pixels(g * centered, jnp.sum)
    # The means of g·scale and of g·scale·x̂ over a group, where x̂ = (x − μ)/σ: what μ and σ contribute.
    num_pixels = x.size // scale.size
    through_mean = _groups(scale * g_shift) / num_pixels
    through_deviation = _groups(scale * g_scale) / num_pixels
    g_x = g * _over(inverse * scale, x) - _over(inverse * through_mean, x)
    g_x -= centered * _over(inverse**2 * through_deviation, x)
    return g_x.astype(x.dtype), g_scale, g_shift


group_norm.defvjp(_forward, _backward)


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """μ and 1/sqrt(σ² + 1e-5) of the group of each channel, [B, C] in float32.

    In float32 the variance is that of the differences from the mean, which keeps its digits at a large mean.
    What bfloat16 holds has no more digits than E[x²] − μ² in float32 keeps, which needs one pass, not two.
    """
    x32 = x.astype(jnp.float32)
    mean = _groups(_pixels(x32, jnp.mean))
    if x.dtype == jnp.bfloat16:
        variance = jnp.maximum(_groups(_pixels(x32**2, jnp.mean)) - mean**2, 0)
    else:
        variance = _groups(_pixels((x32 - _over(mean, x)) ** 2, jnp.mean))
    return mean, jax.lax.rsqrt(variance + 1e-5)


def _pixels(x: jax.Array, reduce: callable) -> jax.Array:
    """[B, ..., C] to [B, C]. Reducing pixels before groups is faster on CPUs (experiments/kernels.py)."""
    return reduce(x, axis=tuple(range(1, x.ndim - 1)))


def _groups(x: jax.Array) -> jax.Array:
    """The mean over each group's channels, [B, C], repeated for every channel."""
    batch, channels = x.shape
    return x.reshape(batch, GROUPS, -1).mean(axis=-1).repeat(channels // GROUPS, axis=-1)


def _over(coefficients: jax.Array, x: jax.Array) -> jax.Array:
    """[B, C] coefficients shaped to broadcast over the pixels of x."""
    return coefficients.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
