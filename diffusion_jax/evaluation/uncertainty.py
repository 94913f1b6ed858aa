"""Standard errors: how far a metric would move with other samples of the same model, as many of them.

They say nothing of the bias that a metric has with finitely many samples: FID, for one, falls with N, and an
error bar around the FID of 10,000 samples need not contain that of 50,000. KID's error is in kid.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffusion_jax.evaluation import inception_score
from diffusion_jax.evaluation.frechet import Gaussian, frechet_distance, resampled_moments

RESAMPLES = 20  # an error is then itself known to a sixth: one part in √(2·19)


def frechet_error(
    features: np.ndarray, reference: Gaussian, seed: int = 0, num_resamples: int = RESAMPLES
) -> float:
    """The bootstrap's standard error of FID and sFID: of features [N, D] against a reference that stays.

    Each resample draws N of the features with replacement and fits a Gaussian to them.
    """
    distances = [
        frechet_distance(resampled_moments(features, counts), reference)
        for counts in _resamples(len(features), seed, num_resamples)
    ]
    return float(np.std(distances, ddof=1))


def inception_score_error(
    logits: np.ndarray, split_size: int = 5000, seed: int = 0, num_resamples: int = RESAMPLES
) -> float:
    """The bootstrap's standard error of the Inception score of logits [N, K], resampled within its splits."""
    splits = inception_score.splits(logits, split_size)
    scores = np.zeros(num_resamples)
    for index, split in enumerate(splits):
        counts = np.stack(list(_resamples(len(split), [seed, index], num_resamples)))
        scores += inception_score.score(*inception_score.predictions(split), counts) / len(splits)
    return float(np.std(scores, ddof=1))


def share_error(covered: np.ndarray) -> float:
    """√(p(1 − p)/n), the standard error of a share p of bool [n]: of precision or recall, given the balls.

    Precision: over draws of samples, the reference stays. Recall: over draws of the features of the reference
    that are counted, the samples stay. Neither knows how balls around other features would differ.
    """
    p = covered.mean()
    return float(np.sqrt(p * (1 - p) / len(covered)))


def _resamples(count: int, seed: int | list[int], num_resamples: int) -> Iterator[np.ndarray]:
    """How often each of `count` samples is drawn when as many are, with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(num_resamples):
        yield np.bincount(rng.integers(count, size=count), minlength=count)
