"""Inception v3 as a pure function of its parameters.

Parameters are a nested dict of float32 arrays, named after the PyTorch port, batch norms folded in:

    Conv2d_1a_3x3/{kernel [height, width, in, out], bias [out]}
    Mixed_5b/branch5x5_1/{kernel, bias}
    logits/kernel [2048, 1008]                             of the classifier; its bias is not used
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from diffusion_jax.evaluation.inception.architecture import BLOCKS, STEM, Chain, Conv, Parallel, Pool
from diffusion_jax.evaluation.inception.resize import RESIZE

Params = dict[str, Any]

PRECISION = 'highest'  # full float32 also on TPUs and GPUs


class Features(NamedTuple):
    """Features of images, float32.

    pool: [B, 2048], means over the pixels of the last block (pool_3): for FID, precision, recall and logits.
    spatial: [B, 2023], the first 7 channels of block Mixed_6d (mixed_6/conv), 17x17 pixels: for sFID.
    """

    pool: jax.Array
    spatial: jax.Array


def apply(params: Params, images: jax.Array, resize: str = 'tensorflow') -> Features:
    """Features of images, uint8 [B, H, W, 3] of any H and W.

    resize: to 299x299, 'tensorflow' as for the paper's numbers, or 'pytorch_fid'.
    """
    return features(params, RESIZE[resize](images))


def features(params: Params, x: jax.Array) -> Features:
    """Features of resized images, float32 [B, 299, 299, 3] in [-1, 1]."""
    return nnx.merge(_graph(), params)(x)


def logits(params: Params, pool: jax.Array) -> jax.Array:
    """[B, 1008] from pool features [B, 2048]; without a bias, as the Inception score is computed."""
    return jnp.dot(pool, params['logits']['kernel'], precision=PRECISION)


def param_shapes() -> Params:
    """The parameters as jax.ShapeDtypeStruct."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(InceptionV3), nnx.Param))


@functools.cache
def _graph() -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(InceptionV3))


class InceptionV3(nnx.Module):
    """Images [B, 299, 299, 3] in [-1, 1] to features."""

    def __init__(self):
        channels = _add(self, STEM, 3)
        for name, block in BLOCKS.items():
            module = nnx.Module()
            channels = _add(module, (block,), channels)
            setattr(self, name, module)
        self.logits = nnx.Dict(kernel=nnx.Param(jnp.zeros((channels, 1008))))

    def __call__(self, x: jax.Array) -> Features:
        x = _run(self, STEM, x)
        for name, block in BLOCKS.items():
            x = _run(getattr(self, name), (block,), x)
            if name == 'Mixed_6d':
                spatial = x[..., :7].reshape(len(x), -1)  # of its first branch, a 1x1 convolution
        return Features(x.mean(axis=(1, 2)), spatial)


class ConvRelu(nnx.Module):
    def __init__(self, in_channels: int, conv: Conv):
        self.conv = conv
        self.kernel = nnx.Param(jnp.zeros((*conv.size, in_channels, conv.channels)))
        self.bias = nnx.Param(jnp.zeros(conv.channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(convolve(x, self.kernel[...], self.conv) + self.bias[...])


def convolve(x: jax.Array, kernel: jax.Array, conv: Conv) -> jax.Array:
    """x ∗ kernel; written the way XLA:CPU runs fastest."""
    if conv.size == (1, 1):
        return jnp.dot(x, kernel[0, 0], precision=PRECISION)
    # XLA:CPU (JAX 0.10) is up to five times as fast with some padding: pad 'VALID' by a row, crop the output.
    valid = conv.padding == 'VALID'
    y = lax.conv_general_dilated(
        x,
        kernel,
        (conv.stride, conv.stride),
        ((0, 1), (0, 0)) if valid else 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        precision=PRECISION,
    )
    return y[:, : (x.shape[1] - conv.size[0]) // conv.stride + 1] if valid else y


def pool(x: jax.Array, step: Pool) -> jax.Array:
    """Maxima or means over 3x3 windows; padding is not counted."""
    if step.kind == 'max':
        return _reduce_windows(x, step, lax.max, -jnp.inf)
    pixels = jnp.ones((1, *x.shape[1:3], 1))
    return _reduce_windows(x, step, lax.add, 0.0) / _reduce_windows(pixels, step, lax.add, 0.0)


def _reduce_windows(x: jax.Array, step: Pool, combine: Callable, neutral: float) -> jax.Array:
    # One axis after the other is faster on CPUs than both at once.
    for window, strides in (((1, 3, 1, 1), (1, step.stride, 1, 1)), ((1, 1, 3, 1), (1, 1, step.stride, 1))):
        x = lax.reduce_window(x, neutral, combine, window, strides, step.padding)
    return x


def _add(module: nnx.Module, chain: Chain, channels: int) -> int:
    """Adds the convolutions of a chain to a module; returns the number of output channels."""
    for step in chain:
        if isinstance(step, Conv):
            setattr(module, step.name, ConvRelu(channels, step))
            channels = step.channels
        elif isinstance(step, Parallel):
            channels = sum(_add(module, branch, channels) for branch in step.chains)
    return channels


def _run(module: nnx.Module, chain: Chain, x: jax.Array) -> jax.Array:
    for step in chain:
        if isinstance(step, Conv):
            x = getattr(module, step.name)(x)
        elif isinstance(step, Pool):
            x = pool(x, step)
        else:
            x = jnp.concatenate([_run(module, branch, x) for branch in step.chains], axis=-1)
    return x
