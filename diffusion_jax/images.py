"""Pixels between files and networks, on the device: scaling to [−1, 1] and back, and reduction."""

import jax
import jax.numpy as jnp
import numpy as np

Size = tuple[int, int]  # height, width


def to_float(images: jax.Array) -> jax.Array:
    """uint8 0…255 to float32 [−1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(x: jax.Array) -> jax.Array:
    """float32 [−1, 1] to uint8, clamped and truncated, not rounded: published numbers depend on it."""
    return jnp.clip((x + 1) * 127.5, 0, 255).astype(jnp.uint8)


def area_downsample(x: jax.Array, size: Size) -> jax.Array:
    """[B, H, W, C] to [B, h, w, C]: each pixel is the mean of the box of pixels that it replaces.

    Row i is the mean of rows ⌊iH/h⌋ … ⌈(i+1)H/h⌉ − 1, columns alike; boxes overlap where h does not divide H.
    """
    rows = _box_means(x.shape[1], size[0])
    columns = _box_means(x.shape[2], size[1])
    return jnp.einsum('iy,byxc,jx->bijc', rows, x, columns, precision='highest')


def reduce_images(images: np.ndarray, size: Size) -> np.ndarray:
    """`area_downsample` of uint8 images [B, H, W, C]."""
    return np.asarray(to_uint8(area_downsample(to_float(jnp.asarray(images)), size)))


def _box_means(length: int, boxes: int) -> np.ndarray:
    """The averaging matrix, float32 [boxes, length]."""
    start = np.arange(boxes) * length // boxes
    stop = -(-np.arange(1, boxes + 1) * length // boxes)
    row = np.arange(length)
    inside = (start[:, None] <= row) & (row < stop[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
