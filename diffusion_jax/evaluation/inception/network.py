"""Inception v3 as a pure function of its parameters.

Parameters are a nested dict of float32 arrays, named after the PyTorch port, batch norms folded in:

    Conv2d_1a_3x3/{kernel [height, width, in, out], bias [out]}
    Mixed_5b/branch5x5_1/{kernel, bias}
    logits/kernel [2048, 1008]                             of the classifier; its bias is not used
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diffusion_jax.evaluation.inception.architecture import BLOCKS, STEM, Chain, Conv, Pool
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
    x = _run(params, STEM, x)
    for name, block in BLOCKS.items():
        x = _run(params[name], (block,), x)
        if name == 'Mixed_6d':
            spatial = x[..., :7].reshape(len(x), -1)  # of its first branch, a 1x1 convolution
    return Features(x.mean(axis=(1, 2)), spatial)


def logits(params: Params, pool: jax.Array) -> jax.Array:
    """[B, 1008] from pool features [B, 2048]; without a bias, as the Inception score is computed."""
    return jnp.dot(pool, params['logits']['kernel'], precision=PRECISION)


def param_shapes() -> Params:
    """The parameters as jax.ShapeDtypeStruct."""
    shapes: Params = {}
    channels = _add_shapes(shapes, STEM, 3)
    for name, block in BLOCKS.items():
        shapes[name] = {}
        channels = _add_shapes(shapes[name], (block,), channels)
    return shapes | {'logits': {'kernel': jax.ShapeDtypeStruct((channels, 1008), jnp.float32)}}


def _add_shapes(shapes: Params, chain: Chain, channels: int) -> int:
    """Adds the shapes of a chain's convolutions; returns the number of output channels."""
    for step in chain:
        if isinstance(step, Conv):
            kernel, bias = (*step.size, channels, step.channels), (step.channels,)
            leaves = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (kernel, bias))
            shapes[step.name] = dict(zip(('kernel', 'bias'), leaves, strict=True))
            channels = step.channels
        elif isinstance(step, list):
            channels = sum(_add_shapes(shapes, branch, channels) for branch in step)
    return channels


def _run(params: Params, chain: Chain, x: jax.Array) -> jax.Array:
    for step in chain:
        if isinstance(step, Conv):
            layer = params[step.name]
            x = jax.nn.relu(convolve(x, layer['kernel'], step) + layer['bias'])
        elif isinstance(step, Pool):
            x = pool(x, step)
        else:
            x = jnp.concatenate([_run(params, branch, x) for branch in step], axis=-1)
    return x


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
