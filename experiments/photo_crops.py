"""Write a small folder of colour images for configs/photos.py: crops of four photographs, one class each.

    pip install '.[experiments]'
    python experiments/photo_crops.py images

writes 100 square crops of each photograph, 64×64 pixels, to images/train/<class>/000.png, 001.png, ...
Positions and sizes are random with a fixed seed, so a repeated call writes the same pixels. All images of a
class show parts of one scene: a model learns this scene and the positions of crops in it, not what cats look
like in general.

Nothing is downloaded; two packages contain the photographs. scikit-image: 'cat' by Stéfan van der Walt and
'coffee' by Rachel Michetti, both CC0. scikit-learn: 'flower' by vultilion and 'temple' by danielbuechele,
both CC BY 2.0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

SIZE = 64
SHARE = (0.65, 0.95)  # side of a crop, relative to the shorter side of its photograph


def photographs() -> dict[str, np.ndarray]:
    """Class to photograph, uint8 [H, W, 3]."""
    return {
        'cat': data.chelsea(),
        'coffee': data.coffee(),
        'flower': load_sample_image('flower.jpg'),
        'temple': load_sample_image('china.jpg'),
    }


def crops(photograph: np.ndarray, number: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Random square crops, resized to SIZE."""
    picture = Image.fromarray(photograph)
    for _ in range(number):
        side = int(min(picture.size) * rng.uniform(*SHARE))
        left, top = (int(rng.integers(length - side + 1)) for length in picture.size)
        box = (left, top, left + side, top + side)
        yield picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=box)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('folder', type=Path, help='is created; images go to FOLDER/train/<class>')
    parser.add_argument('--per-class', type=int, default=100, help='number of crops of each photograph')
    options = parser.parse_args()
    for seed, (name, photograph) in enumerate(photographs().items()):
        directory = options.folder / 'train' / name
        directory.mkdir(parents=True, exist_ok=True)
        for i, crop in enumerate(crops(photograph, options.per_class, np.random.default_rng(seed))):
            crop.save(directory / f'{i:03d}.png')


if __name__ == '__main__':
    main()
