"""Metrics in the space of pixels, for images too small for Inception and not comparable with its metrics."""

from __future__ import annotations

import numpy as np

from diffusion_jax.evaluation.comparison import compare
from diffusion_jax.evaluation.extractors import pixels
from diffusion_jax.evaluation.feature_sets import of_features


def evaluate_pixels(samples: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Every metric that pixels allow, of uint8 images [N, H, W, C]."""
    return compare(of_features(pixels(samples)), of_features(pixels(reference)))
