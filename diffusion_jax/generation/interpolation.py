"""Interpolation between the noises of two images."""

from typing import Any

import numpy as np

from diffusion_jax.generation.arguments import check_array, one_for_each


def interpolate(a: np.ndarray, b: np.ndarray, fraction: Any) -> np.ndarray:
    """The noises between a and b on a great circle, float32 like a; 0 is a, and 1 is b.

    sin((1−f)·θ)/sin(θ)·a + sin(f·θ)/sin(θ)·b, where θ is the angle between a and b, of each image (DDIM,
    2010.02502, appendix D.5). Unlike the mean of two noises, these have the norm of noise.

    Args:
        a, b: float32 [B, H, W, C], such as those of `Generator.invert`.
        fraction: f, one number for all images or one for each.
    """
    a = check_array('a', a, ('B', 'H', 'W', 'C'), np.float32)
    b = check_array('b', b, a.shape, np.float32)
    f = one_for_each('fraction', fraction, len(a), np.float64).reshape(-1, 1, 1, 1)
    long_a, long_b = a.astype(np.float64), b.astype(np.float64)
    axes = (1, 2, 3)
    norms = np.sqrt((long_a**2).sum(axes) * (long_b**2).sum(axes))
    cosine = (long_a * long_b).sum(axes) / np.where(norms == 0, 1, norms)
    theta = np.arccos(np.clip(cosine, -1, 1)).reshape(-1, 1, 1, 1)
    sine = np.sin(theta)
    straight = sine < 1e-6
    sine = np.where(straight, 1, sine)
    weight_a = np.where(straight, 1 - f, np.sin((1 - f) * theta) / sine)
    weight_b = np.where(straight, f, np.sin(f * theta) / sine)
    return (weight_a * long_a + weight_b * long_b).astype(np.float32)
