"""The Inception score: Salimans et al. 2016 (arXiv 1606.03498)."""

from __future__ import annotations

import numpy as np


def inception_score(logits: np.ndarray, split_size: int = 5000) -> float:
    """exp E_x KL(p(y|x) ‖ p(y)) of logits [N, K], taken over consecutive splits and averaged.

    p(y) is the mean within the split; a last short split weighs as much as the others. Published numbers rest
    on logits without their bias.
    """
    splits = range(0, len(logits), split_size)
    return float(np.mean([_score(logits[start : start + split_size]) for start in splits]))


def _score(logits: np.ndarray) -> float:
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    log_marginal = np.logaddexp.reduce(log_p, axis=0) - np.log(len(log_p))
    divergence = np.sum(np.exp(log_p) * (log_p - log_marginal), axis=1)
    return np.exp(divergence.mean())
