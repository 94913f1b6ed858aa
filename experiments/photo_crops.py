"""Write a folder of colour images for configs/photos.py: crops of six photographs, one class each.

    pip install '.[experiments]'
    python experiments/photo_crops.py images

writes 128×128 pixels each, 200 crops of each photograph to images/train/<class>/000.png, 001.png, … and 50 to
images/test/<class>. Positions and sizes are random with a fixed seed, so a repeated call writes the same
pixels. Each photograph is cut into two parts by a strip of 10 pixels: crops for training lie in one part,
crops for testing in the other. All images of a class show one scene: a model learns this scene and the
positions of crops in it, not what cats look like in general, and a test shows how it does on parts of the
scene that it has not seen.

Nothing is downloaded; two packages contain the photographs. scikit-image: 'cat' by Stéfan van der Walt and
'coffee' by Rachel Michetti, both CC0; 'coins', Greek coins from Pompeii, of the Brooklyn Museum, without
known copyright restrictions; 'galaxies', the Hubble eXtreme Deep Field, of NASA, in the public domain.
scikit-learn: 'flower' by vultilion and 'temple' by danielbuechele, both CC BY 2.0.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

SIZE = 128
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the photograph


@dataclass(frozen=True)
class Photograph:
    """Where crops of a photograph lie, and the smallest and the largest side of a crop in its pixels."""

    load: Callable[[], np.ndarray]
    train: Box
    test: Box
    sides: tuple[int, int]


PHOTOGRAPHS = {
    'cat': Photograph(data.chelsea, (170, 20, 390, 260), (0, 0, 160, 300), (145, 160)),
    'coffee': Photograph(data.coffee, (80, 0, 370, 310), (380, 0, 600, 400), (200, 220)),
    'coins': Photograph(data.coins, (0, 0, 250, 303), (260, 0, 384, 303), (116, 124)),
    'flower': Photograph(
        lambda: load_sample_image('flower.jpg'), (90, 60, 380, 370), (390, 60, 640, 390), (210, 240)
    ),
    'galaxies': Photograph(data.hubble_deep_field, (0, 0, 690, 872), (700, 0, 1000, 872), (160, 240)),
    'temple': Photograph(
        lambda: load_sample_image('china.jpg'), (50, 10, 390, 330), (400, 0, 640, 427), (220, 240)
    ),
}


def crops(photograph: Photograph, box: Box, number: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Random square crops of a part of the photograph, resized to SIZE, in RGB."""
    part = Image.fromarray(photograph.load()).convert('RGB').crop(box)
    for _ in range(number):
        side = int(rng.integers(photograph.sides[0], photograph.sides[1] + 1))
        left, top = (int(rng.integers(length - side + 1)) for length in part.size)
        square = (left, top, left + side, top + side)
        yield part.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=square)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('folder', type=Path, help='is created; images go to FOLDER/train and FOLDER/test')
    parser.add_argument('--per-class', type=int, default=200, help='training crops of each photograph')
    parser.add_argument('--test-per-class', type=int, default=50, help='test crops of each photograph')
    options = parser.parse_args()
    for seed, (name, photograph) in enumerate(PHOTOGRAPHS.items()):
        rng = np.random.default_rng(seed)
        for split, number in (('train', options.per_class), ('test', options.test_per_class)):
            directory = options.folder / split / name
            directory.mkdir(parents=True, exist_ok=True)
            for i, crop in enumerate(crops(photograph, getattr(photograph, split), number, rng)):
                crop.save(directory / f'{i:03d}.png')


if __name__ == '__main__':
    main()
