"""The Inception score: Salimans et al. 2016 (arXiv 1606.03498)."""

from __future__ import annotations

import numpy as np


def inception_score(logits: np.ndarray, split_size: int = 5000) -> float:
    """exp E_x KL(p(y|x) ‖ p(y)) of logits [N, K], taken over consecutive splits and averaged.

    p(y) is the mean within the split; a last short split weighs as much as the others. Published numbers rest
    on logits without their bias.
    """
    return float(np.mean([score(*predictions(split)) for split in splits(logits, split_size)]))


def splits(logits: np.ndarray, split_size: int) -> list[np.ndarray]:
    """Consecutive parts, the last perhaps shorter."""
    return [logits[start : start + split_size] for start in range(0, len(logits), split_size)]


def predictions(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p(y|x) [N, K] and its entropy [N], in float64."""
    logits = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    p = np.exp(logits)
    total = p.sum(axis=1)
    p /= total[:, None]
    return p, np.log(total) - np.einsum('nk,nk->n', p, logits)


def score(p: np.ndarray, entropies: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """exp of (the entropy of p(y)) − (the mean entropy of p(y|x)), of one split.

    counts: [..., N], how often each image is in the split, if not once; scores [...].
    """
    counts = np.ones(len(p)) if counts is None else counts
    weights = counts / counts.sum(axis=-1, keepdims=True)
    marginal = weights @ p
    logs = np.log(marginal, where=marginal > 0, out=np.zeros_like(marginal))
    return np.exp(-np.sum(marginal * logs, axis=-1) - weights @ entropies)
