"""The layers of the networks. Images are [B, H, W, C]; initial values are PyTorch's."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffusion_jax.models.config import DTYPES, TrunkConfig, UNetConfig
from diffusion_jax.models.layout import Layer
from diffusion_jax.models.normalization import GroupNorm


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
    """Nearest-neighbour upsampling by 2."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def downsample(x: jax.Array) -> jax.Array:
    """Average pooling by 2."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


RESAMPLE = {'up': upsample, 'down': downsample, None: lambda x: x}


def linear(
    in_channels: int, out_channels: int, rngs: nnx.Rngs, dtype: str = 'float32', zero: bool = False
) -> nnx.Linear:
    """A linear map of the last axis, which is also a 1x1 convolution."""
    return nnx.Linear(in_channels, out_channels, rngs=rngs, **_options(in_channels, dtype, zero))


def linear_of_parts(linear: nnx.Linear, parts: tuple[jax.Array, ...]) -> jax.Array:
    """linear of the concatenation of the parts, as a sum of products that does not need it."""
    params: Any = linear.kernel, linear.bias
    kernel, y = (param[...].astype(parts[0].dtype) for param in params)
    end = 0
    for part in parts:
        start, end = end, end + part.shape[-1]
        y += jnp.matmul(part, kernel[start:end], precision=linear.precision)
    return y


def conv3x3(
    in_channels: int,
    out_channels: int,
    rngs: nnx.Rngs,
    dtype: str = 'float32',
    zero: bool = False,
    stride: int = 1,
) -> nnx.Conv:
    """A 3x3 convolution, padded by 1 on every side ('SAME' with stride 2 would pad two sides only)."""
    options = _options(9 * in_channels, dtype, zero)
    return nnx.Conv(in_channels, out_channels, (3, 3), strides=stride, padding=1, rngs=rngs, **options)


def _options(fan_in: int, dtype: str, zero: bool) -> dict[str, Any]:
    """Initial values U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of kernel and bias, or zeros; dtype and precision."""
    bound = 1 / math.sqrt(fan_in)

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    init = nnx.initializers.zeros if zero else uniform
    return dict(zip(('dtype', 'precision'), DTYPES[dtype], strict=True)) | {
        'kernel_init': init,
        'bias_init': init,
    }


class OutputConv(nnx.Module):
    """A 3x3 convolution to the few channels of an image, initially zero; its result is in float32.

    As a convolution it would leave matrix units idle. Here its 9 taps are columns of one matrix product, and
    the result is the sum of 9 shifted images.
    """

    def __init__(self, config: UNetConfig, in_channels: int):
        self.precision = config.precision
        self.kernel = nnx.Param(jnp.zeros((3, 3, in_channels, config.out_channels)))
        self.bias = nnx.Param(jnp.zeros(config.out_channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        (height, width), (in_channels, out_channels) = x.shape[1:3], self.kernel.shape[2:]
        columns = self.kernel[...].astype(x.dtype).transpose(2, 0, 1, 3).reshape(in_channels, -1)
        taps = float32_product(x, columns, self.precision).reshape(*x.shape[:3], 3, 3, out_channels)
        taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
        shifts = [(i, j) for i in range(3) for j in range(3)]
        return sum(taps[:, i : i + height, j : j + width, i, j] for i, j in shifts) + self.bias[...]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def float32_product(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    """x·kernel, [..., C] and [C, O], in float32. Products of its derivatives are in the operands' dtype."""
    return jnp.matmul(x, kernel, precision=precision, preferred_element_type=jnp.float32)


@float32_product.defjvp
def _float32_product_jvp(precision: str, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, d_kernel) = primals, tangents
    matmul = functools.partial(jnp.matmul, precision=precision)
    derivative = matmul(dx, kernel) + matmul(x, d_kernel)
    return float32_product(x, kernel, precision), derivative.astype(jnp.float32)


def add_residual(x: jax.Array, h: jax.Array, rescale: bool) -> jax.Array:
    """x + h, with `rescale` divided by sqrt(2) to keep the variance."""
    return (x + h) * math.sqrt(0.5) if rescale else x + h


class TimeEmbedding(nnx.Module):
    """t [B] to the embedding [B, 4·channels] of the residual blocks."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.channels = channels
        self.linear_in = linear(channels, 4 * channels, rngs)
        self.linear_out = linear(4 * channels, 4 * channels, rngs)

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.linear_out(nnx.silu(self.linear_in(timestep_embedding(t, self.channels))))


class ResidualBlock(nnx.Module):
    """Two convolutions and a skip connection, conditioned on the embedding (paper, section 3.1).

    With AdaGN the embedding gives scale and shift of the second norm, (1 + e_s)·GroupNorm(h) + e_b;
    otherwise it is added before that norm. `layer.resample` resamples both paths before the first
    convolution. A decoder's input is in two parts, which are not concatenated.
    """

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        channels, dtype = layer.out_channels, config.dtype
        self.resample = layer.resample
        self.scale_shift = config.scale_shift_norm
        self.rescale = config.rescale_residual
        self.norm_in = GroupNorm(layer.in_channels, config.norm_groups)
        self.conv_in = conv3x3(layer.in_channels, channels, rngs, dtype)
        self.embedding = linear(4 * config.model_channels, channels * (2 if self.scale_shift else 1), rngs)
        self.norm_out = GroupNorm(channels, config.norm_groups)
        self.dropout = nnx.Dropout(config.dropout)
        self.conv_out = conv3x3(channels, channels, rngs, dtype, zero=True)
        is_skip = layer.in_channels != channels
        self.skip = linear(layer.in_channels, channels, rngs, dtype) if is_skip else None

    def __call__(self, *x: jax.Array, embedding: jax.Array, key: jax.Array | None) -> jax.Array:
        resample = RESAMPLE[self.resample]
        h = self.conv_in(resample(self.norm_in(*x)))
        e = self.embedding(nnx.silu(embedding))
        if self.scale_shift:
            h = self.norm_out(h, modulation=e)
        else:
            h = self.norm_out(h + e[:, None, None].astype(h.dtype))
        h = self.dropout(h, deterministic=key is None, rngs=key)
        h = self.conv_out(h)
        skip = linear_of_parts(self.skip, x) if self.skip else jnp.concatenate(x, axis=-1)
        return add_residual(resample(skip), h, self.rescale)


class Downsample(nnx.Module):
    """Downsampling without a residual block: a convolution of stride 2, or average pooling."""

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        sizes = layer.in_channels, layer.out_channels
        self.conv = conv3x3(*sizes, rngs, config.dtype, stride=2) if config.conv_resample else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x) if self.conv else downsample(x)


class Upsample(nnx.Module):
    """Upsampling without a residual block, with `conv_resample` followed by a convolution."""

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        sizes = layer.in_channels, layer.out_channels
        self.conv = conv3x3(*sizes, rngs, config.dtype) if config.conv_resample else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = upsample(x)
        return self.conv(x) if self.conv else x
