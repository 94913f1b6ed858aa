"""Draw guided samples of configs/photos.py beside their enlargements, a row a class: the README's picture.

python experiments/photos_picture.py runs/small runs/large docs/photos.png
"""

import argparse
from pathlib import Path

import numpy as np

from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.generation.grid import image_grid, save_png
from diffusion_jax.stored_networks import DIFFUSION, stored_classes

SMALL, LARGE = 6, 6  # samples and enlargements in a row


def picture(small: np.ndarray, large: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Names, samples and enlargements in columns, uint8 [height, width, 3].

    small, large: uint8 [N, h, w, 3] and [N, H, W, 3]; image i of both has label i. Enlargements are those of
    the first samples in their row.
    """
    factor = large.shape[1] // small.shape[1]
    rows = [np.flatnonzero(labels == label) for label in range(len(names))]
    left = image_grid(small[np.concatenate([row[:SMALL] for row in rows])], SMALL, factor, names)
    right = image_grid(large[np.concatenate([row[:LARGE] for row in rows])], LARGE, 1)
    return np.concatenate([left, right], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('run', type=Path, help='where configs/photos.py was run')
    parser.add_argument('upsampler', type=Path, help='where configs/photos_upsampler.py was run')
    parser.add_argument('out', type=Path, help='the PNG file to write')
    args = parser.parse_args()
    small, large = (open_samples(run / 'samples') for run in (args.run, args.upsampler))
    labels = np.asarray(large.labels)
    names = stored_classes(args.run / DIFFUSION)
    save_png(args.out, picture(small.read_all(), large.read_all(), labels, names))


if __name__ == '__main__':
    main()
