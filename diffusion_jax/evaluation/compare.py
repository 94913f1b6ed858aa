"""Samples against real images, in one call."""

from __future__ import annotations

import numpy as np

from diffusion_jax.evaluation.features import pixels
from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.evaluation.precision_recall import precision_recall


def evaluate_pixels(samples: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Metrics of uint8 images [N, H, W, C] with pixels as features; not to be compared with Inception's."""
    samples, reference = pixels(samples), pixels(reference)
    precision, recall = precision_recall(samples, reference)
    distance = frechet_distance(moments(samples), moments(reference))
    return {'frechet_distance': distance, 'precision': precision, 'recall': recall}
