"""The Inception score: Salimans et al. 2016 (arXiv 1606.03498)."""

import numpy as np
from scipy.special import entr, softmax


def inception_score(logits: np.ndarray, split_size: int = 5000) -> float:
    """exp E_x KL(p(y|x) ‖ p(y)) of logits [N, K], averaged over consecutive splits.

    p(y) is the mean of the split; a last shorter split has the same weight. Published numbers use logits
    without their bias.
    """
    return float(np.mean([_score(p, entr(p).sum(axis=1)) for p in _predictions(logits, split_size)]))


def inception_score_error(
    logits: np.ndarray, num_resamples: int, split_size: int = 5000, seed: int = 0
) -> float:
    """The standard error of the score, by the bootstrap within each split."""
    rng = np.random.default_rng(seed)
    splits = _predictions(logits, split_size)
    scores = np.zeros(num_resamples)
    for p in splits:
        entropies = entr(p).sum(axis=1)
        for i in range(num_resamples):
            rows = rng.integers(len(p), size=len(p))
            scores[i] += _score(p[rows], entropies[rows]) / len(splits)
    return float(np.std(scores, ddof=1))


def _predictions(logits: np.ndarray, split_size: int) -> list[np.ndarray]:
    """p(y|x) of each split in float64."""
    splits = (logits[start : start + split_size] for start in range(0, len(logits), split_size))
    return [softmax(np.asarray(split, np.float64), axis=1) for split in splits]


def _score(p: np.ndarray, entropies: np.ndarray) -> float:
    return np.exp(entr(p.mean(axis=0)).sum() - entropies.mean())
