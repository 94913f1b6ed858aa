"""Bilinear resizing of images to Inception's input, 299x299 in [-1, 1].

Published numbers depend on the method: neither smooths first, and they differ in the positions of pixels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 299


def tensorflow(images: jax.Array) -> jax.Array:
    """TensorFlow 1's resize: of n pixels, output i is read at position i·n/299.

    images: uint8 [B, H, W, 3]; returns float32 [B, 299, 299, 3], (x − 128)/128.
    """
    return (_interpolate(images, _positions) - 128) / 128


def pytorch_fid(images: jax.Array) -> jax.Array:
    """pytorch-fid's resize, with half-pixel centers: of n pixels, output i is read at (i + ½)·n/299 − ½.

    images: uint8 [B, H, W, 3]; returns float32 [B, 299, 299, 3], 2·(x/255) − 1.
    """
    return 2 * (_interpolate(images, _centered_positions) / 255) - 1


RESIZE = {'tensorflow': tensorflow, 'pytorch_fid': pytorch_fid}


def _positions(size: int) -> np.ndarray:
    # float32 as in TensorFlow: at 512 pixels the rounding moves results by up to 6e-5.
    return np.arange(SIZE, dtype=np.float32) * np.float32(size / SIZE)


def _centered_positions(size: int) -> np.ndarray:
    # PyTorch rounds the scale to float32 and uses a fused multiply-add.
    scale = np.float64(np.float32(size / SIZE))
    return np.maximum((np.arange(SIZE) + 0.5) * scale - 0.5, 0).astype(np.float32)


def _interpolate(images: jax.Array, positions: Callable[[int], np.ndarray]) -> jax.Array:
    """Interpolates linearly along the width, then the height; the last pixel is repeated beyond the edge."""
    x = images
    for axis in (2, 1):
        size = x.shape[axis]
        at = positions(size)
        lower = np.minimum(at.astype(np.int32), size - 1)
        weight = np.expand_dims(np.float32(at - lower), tuple(range(1, x.ndim - axis)))
        low = x[(slice(None),) * axis + (lower,)].astype(jnp.float32)
        high = x[(slice(None),) * axis + (np.minimum(lower + 1, size - 1),)].astype(jnp.float32)
        x = low + (high - low) * weight
    return x
