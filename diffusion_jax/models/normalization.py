"""Group normalization (Wu & He, 1803.08494), with the modulation and the activation after it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

Parts = tuple[jax.Array, ...]


class GroupNorm(nnx.Module):
    """Group normalization of channels, a multiple of `groups`; all arithmetic is in float32."""

    def __init__(self, channels: int, groups: int):
        self.groups = groups
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(
        self, *parts: jax.Array, modulation: jax.Array | None = None, silu: bool = True
    ) -> jax.Array:
        """Normalize x [B, ..., C] over everything between batch and channels and the channels of a group.

        Args:
            parts: x, or arrays whose concatenation along the channels is x; float32 or bfloat16, which is
                the dtype of the result too.
            modulation: [B, 2C], a scale e_s and a shift e_b: (1 + e_s)·GroupNorm(x) + e_b, the adaptive
                group normalization of the paper (section 3.1).
            silu: apply SiLU to the result.
        """
        scale, shift = self.scale[...], self.bias[...]
        if modulation is not None:
            e_s, e_b = jnp.split(modulation, 2, axis=-1)
            scale, shift = (1 + e_s) * scale, (1 + e_s) * shift + e_b
        scale, shift = (jnp.broadcast_to(c, (parts[0].shape[0], c.shape[-1])) for c in (scale, shift))
        return group_norm(parts, scale, shift, silu, self.groups)


def group_norm(parts: Parts, scale: jax.Array, shift: jax.Array, silu: bool, groups: int) -> jax.Array:
    """silu(scale·(x − μ)/σ + shift), where μ and σ² + 1e-5 are those of the groups of channels of an image.

    x [B, ..., C] is the concatenation of `parts`, which is never in memory; scale and shift are [B, C].
    """
    if parts[0].dtype == jnp.float32:
        return _normalize(parts, scale, shift, silu, groups)[0]
    return half_group_norm(parts, scale, shift, silu, groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def half_group_norm(parts: Parts, scale: jax.Array, shift: jax.Array, silu: bool, groups: int) -> jax.Array:
    """`group_norm` for bfloat16, with a custom gradient (no forward mode).

    Both directions read their images twice, for sums and for the result, and write bfloat16 only; autodiff
    would store images in float32.
    """
    return _normalize(parts, scale, shift, silu, groups)[0]


def _normalize(
    parts: Parts, scale: jax.Array, shift: jax.Array, silu: bool, groups: int
) -> tuple[jax.Array, tuple]:
    mean, inverse = _statistics(parts, groups)
    y = []
    for x, mean_, scale_, shift_ in _by_part(parts, mean, inverse * scale, shift):
        z = scale_ * (x - mean_) + shift_
        y.append((nnx.silu(z) if silu else z).astype(parts[0].dtype))
    return jnp.concatenate(y, axis=-1), (parts, scale, shift, mean, inverse)


def _backward(silu: bool, groups: int, residuals: tuple, g: jax.Array) -> tuple[Parts, jax.Array, jax.Array]:
    parts, scale, shift, mean, inverse = residuals

    def through_silu(
        x: jax.Array, g: jax.Array, mean: jax.Array, scale: jax.Array, shift: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """x − μ, and the gradient to z."""
        if silu:
            z = scale * (x - mean) + shift
            sigmoid = nnx.sigmoid(z)
            g *= sigmoid * (1 + z * (1 - sigmoid))
        return x - mean, g

    arrays: tuple[jax.Array, ...] = (g.astype(jnp.float32), mean, inverse * scale, shift)
    centered, g_z = zip(*(through_silu(*part) for part in _by_part(parts, *arrays)), strict=True)
    g_shift = _pixels(jnp.sum, *g_z)
    g_scale = inverse * _pixels(jnp.sum, *(x * g for x, g in zip(centered, g_z, strict=True)))
    # The means of g·scale and of g·scale·x̂ over a group, x̂ = (x − μ)/σ: the gradients through μ and σ.
    num_pixels = g.size // scale.size
    through_mean = inverse * _groups(scale * g_shift, groups) / num_pixels
    through_deviation = inverse**2 * _groups(scale * g_scale, groups) / num_pixels
    # The barrier makes the compiler compute x − μ and g_z again rather than store them in float32.
    parts, g, through_mean = jax.lax.optimization_barrier((parts, g, through_mean))
    arrays = (g.astype(jnp.float32), *arrays[1:], through_mean, through_deviation)
    g_x = []
    for x, g_y, mean_, scale_, shift_, *through in _by_part(parts, *arrays):
        deviation, to_z = through_silu(x, g_y, mean_, scale_, shift_)
        g_x.append((scale_ * to_z - through[0] - through[1] * deviation).astype(g.dtype))
    return tuple(g_x), g_scale, g_shift


half_group_norm.defvjp(_normalize, _backward)


def _statistics(parts: Parts, groups: int) -> tuple[jax.Array, jax.Array]:
    """μ and 1/sqrt(σ² + 1e-5) of the group of each channel, [B, C] in float32.

    In float32 the variance is E[(x − μ)²], which is accurate at a large mean. For bfloat16 E[x²] − μ² in
    float32 is accurate enough, and needs one pass instead of two.
    """
    mean = _groups(_pixels(jnp.mean, *(x for (x,) in _by_part(parts))), groups)
    if parts[0].dtype == jnp.float32:
        # The variance is stationary in the mean, so its derivative is complete without that of the mean.
        fixed = jax.lax.stop_gradient(mean)
        squares = ((x - mean_) ** 2 for x, mean_ in _by_part(parts, fixed))
        variance = _groups(_pixels(jnp.mean, *squares), groups)
    else:
        square = _groups(_pixels(jnp.mean, *(x**2 for (x,) in _by_part(parts))), groups)
        variance = jnp.maximum(square - mean**2, 0)
    return mean, jax.lax.rsqrt(variance + 1e-5)


def _by_part(parts: Parts, *arrays: jax.Array) -> list[tuple[jax.Array, ...]]:
    """Each part in float32, with its channels of the arrays; arrays [B, C] broadcast over pixels."""
    channels = [part.shape[-1] for part in parts]
    ends = [sum(channels[: i + 1]) for i in range(len(channels) - 1)]
    pixels = (1,) * (parts[0].ndim - 2)
    arrays = tuple(a if a.ndim > 2 else a.reshape(a.shape[0], *pixels, a.shape[-1]) for a in arrays)
    split = [jnp.split(array, ends, axis=-1) for array in arrays]
    return list(zip([part.astype(jnp.float32) for part in parts], *split, strict=True))


def _pixels(reduce: Callable[..., jax.Array], *parts: jax.Array) -> jax.Array:
    """[B, ..., C] parts to [B, C]. Pixels before groups is faster on CPUs (experiments/kernels.py)."""
    return jnp.concatenate([reduce(part, axis=tuple(range(1, part.ndim - 1))) for part in parts], axis=-1)


def _groups(x: jax.Array, groups: int) -> jax.Array:
    """The mean over each group's channels, [B, C], repeated for every channel."""
    batch, channels = x.shape
    return x.reshape(batch, groups, -1).mean(axis=-1).repeat(channels // groups, axis=-1)
