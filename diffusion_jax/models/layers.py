"""The parts that networks are built of. Images are [B, H, W, C]; initial values are PyTorch's."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffusion_jax.models.config import TrunkConfig
from diffusion_jax.models.plan import Layer


def timestep_embedding(t: jax.Array, dim: int) -> jax.Array:
    """Sinusoidal embedding [B, dim], float32: [cos(t·f) | sin(t·f)], f from 1 down to almost 1/10000.

    t [B] may be fractional. An odd dim ends in a zero column.
    """
    half = dim // 2
    frequencies = np.exp(-math.log(10000) * np.arange(half) / half).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def upsample(x: jax.Array) -> jax.Array:
    """Twice as large, by repetition."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def downsample(x: jax.Array) -> jax.Array:
    """Half as large, by 2x2 means."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


RESAMPLE = {'up': upsample, 'down': downsample, None: lambda x: x}


# TPUs multiply float32 in bfloat16 and GPUs in TF32 unless told otherwise; bfloat16 is a switch of its own.
PRECISION = 'highest'


def linear(
    in_channels: int, out_channels: int, rngs: nnx.Rngs, dtype: str = 'float32', zero: bool = False
) -> nnx.Linear:
    """A linear map of the last axis: also what a 1x1 convolution is."""
    init = nnx.initializers.zeros if zero else _uniform(in_channels)
    return nnx.Linear(
        in_channels,
        out_channels,
        kernel_init=init,
        bias_init=init,
        dtype=dtype,
        precision=PRECISION,
        rngs=rngs,
    )


def conv3x3(
    in_channels: int,
    out_channels: int,
    rngs: nnx.Rngs,
    dtype: str = 'float32',
    zero: bool = False,
    stride: int = 1,
) -> nnx.Conv:
    """A 3x3 convolution, padded by 1 on every side."""
    init = nnx.initializers.zeros if zero else _uniform(9 * in_channels)
    # Not 'SAME': with stride 2 it would pad only the bottom and the right.
    return nnx.Conv(
        in_channels,
        out_channels,
        (3, 3),
        strides=stride,
        padding=1,
        kernel_init=init,
        bias_init=init,
        dtype=dtype,
        precision=PRECISION,
        rngs=rngs,
    )


class GroupNorm(nnx.Module):
    """Group normalization with 32 groups: statistics in float32, output in `dtype`.

    The variance is that of the differences from the mean (two passes): it keeps its digits at a large mean.
    Means are taken over pixels first and then within the groups, which is faster on a CPU than reducing over
    both at once, as flax's does (experiments/group_norm.py).
    """

    def __init__(self, channels: int, rngs: nnx.Rngs, dtype: str = 'float32'):
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, ..., C], normalized over everything in between and the channels of a group."""
        x = x.astype(jnp.float32)
        x -= self._group_mean(x)
        inverse = jax.lax.rsqrt(self._group_mean(x**2) + 1e-5)
        return (x * (inverse * self.scale[...]) + self.bias[...]).astype(self.dtype)

    @staticmethod
    def _group_mean(x: jax.Array) -> jax.Array:
        batch, *pixels, channels = x.shape
        mean = x.mean(axis=tuple(range(1, x.ndim - 1))).reshape(batch, 32, -1).mean(axis=-1)
        return mean.repeat(channels // 32, axis=-1).reshape(batch, *(1 for _ in pixels), channels)


def add_residual(x: jax.Array, h: jax.Array, rescale: bool) -> jax.Array:
    """x + h, divided by sqrt(2) on demand so that the variance does not grow."""
    return (x + h) * math.sqrt(0.5) if rescale else x + h


class TimeEmbedding(nnx.Module):
    """t [B] to the embedding [B, 4·channels] that residual blocks see."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.channels = channels
        self.linear_in = linear(channels, 4 * channels, rngs)
        self.linear_out = linear(4 * channels, 4 * channels, rngs)

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.linear_out(nnx.silu(self.linear_in(timestep_embedding(t, self.channels))))


class ResidualBlock(nnx.Module):
    """Two convolutions around a skip connection, under the influence of the embedding (paper, section 3.1).

    With AdaGN the embedding gives scale and shift of the second norm, (1 + e_s)·GroupNorm(h) + e_b;
    otherwise it is added before that norm. `layer.resample` changes the resolution on both paths, ahead of
    the first convolution.
    """

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        channels, dtype = layer.out_channels, config.dtype
        self.resample = layer.resample
        self.scale_shift = config.scale_shift_norm
        self.rescale = config.rescale_residual
        self.norm_in = GroupNorm(layer.in_channels, rngs, dtype)
        self.conv_in = conv3x3(layer.in_channels, channels, rngs, dtype)
        self.embedding = linear(4 * config.model_channels, channels * (2 if self.scale_shift else 1), rngs)
        self.norm_out = GroupNorm(channels, rngs, dtype)
        self.dropout = nnx.Dropout(config.dropout)
        self.conv_out = conv3x3(channels, channels, rngs, dtype, zero=True)
        self.skip = (
            linear(layer.in_channels, channels, rngs, dtype) if layer.in_channels != channels else None
        )

    def __call__(self, x: jax.Array, embedding: jax.Array, key: jax.Array | None) -> jax.Array:
        resample = RESAMPLE[self.resample]
        h = self.conv_in(resample(nnx.silu(self.norm_in(x))))
        e = self.embedding(nnx.silu(embedding))[:, None, None].astype(h.dtype)
        if self.scale_shift:
            scale, shift = jnp.split(e, 2, axis=-1)
            h = (1 + scale) * self.norm_out(h) + shift
        else:
            h = self.norm_out(h + e)
        h = self.dropout(nnx.silu(h), deterministic=key is None, rngs=key)
        h = self.conv_out(h)
        x = resample(x)
        return add_residual(self.skip(x) if self.skip else x, h, self.rescale)


class Downsample(nnx.Module):
    """Half the resolution without a residual block: a convolution of stride 2, or 2x2 means."""

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        channels = layer.out_channels
        self.conv = (
            conv3x3(channels, channels, rngs, config.dtype, stride=2) if config.conv_resample else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x) if self.conv else downsample(x)


class Upsample(nnx.Module):
    """Twice the resolution without a residual block: repetition, then perhaps a convolution."""

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        channels = layer.out_channels
        self.conv = conv3x3(channels, channels, rngs, config.dtype) if config.conv_resample else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = upsample(x)
        return self.conv(x) if self.conv else x


def _uniform(fan_in: int) -> nnx.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): for a kernel and for the bias beside it."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
