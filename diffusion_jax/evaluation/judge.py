"""An independent judge of generated digits: a support vector machine that has seen only real ones.

It shares nothing with the networks it judges, neither architecture nor noise.
"""

from __future__ import annotations

import functools

import numpy as np

from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.evaluation.extractors import pixels


def judge(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 8, 8, 1] to the labels that the judge gives them, int [N]."""
    return _fitted().predict(pixels(images))


def label_agreement(images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images, uint8 [N, 8, 8, 1], that the judge takes for the digit they were made to be."""
    return float(np.mean(judge(images) == labels))


def accuracy_on_real_digits() -> float:
    """The share of the real test digits that the judge gets right: what perfect samples would reach."""
    test = digits_source('test')
    return label_agreement(test.images, test.labels)


@functools.cache
def _fitted():
    from sklearn.svm import SVC

    train = digits_source('train')
    return SVC(kernel='rbf', C=1.0, gamma=0.3).fit(pixels(train.images), train.labels)
