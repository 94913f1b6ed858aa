"""The 1,797 handwritten 8×8 digits that scikit-learn carries: real images without a download."""

import numpy as np

from diffusion_jax.data.sources.base import ArraySource

NUM_TRAIN = 1500
SPLIT_SEED = 0


def digits_source(split: str) -> ArraySource:
    """'train' (1,500 images) or 'test' (297): one fixed random split, not stratified by class.

    Images are uint8 [8, 8, 1]: the data set's 0…16 times 255/16, rounded.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    chosen = {'train': order[:NUM_TRAIN], 'test': order[NUM_TRAIN:]}[split]
    return ArraySource(images[chosen], labels[chosen], tuple('0123456789'))
