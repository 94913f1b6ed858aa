"""Metrics in the space of pixels, for images too small for Inception and not comparable with its metrics."""

from __future__ import annotations

import numpy as np

from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.evaluation.precision_recall import precision_recall

MAX_DIMENSIONS = 3 * 32 * 32  # covariances of larger images take minutes and gigabytes


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] to features, float64 [N, H·W·C] in [0, 1]."""
    return images.reshape(len(images), -1) / 255


def evaluate_pixels(samples: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Fréchet distance, precision and recall of uint8 images [N, H, W, C]."""
    samples, reference = pixels(samples), pixels(reference)
    precision, recall = precision_recall(samples, reference)
    distance = frechet_distance(moments(samples), moments(reference))
    return {'frechet_distance': distance, 'precision': precision, 'recall': recall}
