"""Measure guided samples of configs/photos.py, and its upsampler on held-out crops.

    python experiments/photos_acceptance.py images runs/small runs/large    # 4 minutes on 2 CPU cores

The images are those of experiments/photo_crops.py, or a folder of your own with images/test/<class>.

Samples: a support vector machine that knows histograms of colours and gradients of training crops only
classifies them; its accuracy on test crops is stated. Fréchet distances are those of 8×8 patches with pixels
in [0, 1], to the training crops and to the test crops. Real images have that of two halves of the training
crops, and that of the training crops to the test crops, which show other parts of the scenes.

Upsampler: test crops are reduced and enlarged again. Consistency is the root mean square error, of 255,
between the reduced crop and the reduced enlargement. Gradient energy is the mean square difference of
neighbouring pixels, relative to the crops'. The Fréchet distance of patches is compared with that of bicubic
interpolation.

Writes <run>/acceptance.json. The exit code is 1 if a requirement is missed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.svm import SVC

import diffusion_jax
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.transforms import center_crop
from diffusion_jax.evaluation.frechet import Moments, fit, frechet_distance
from diffusion_jax.images import Size, reduce_images
from diffusion_jax.workdir import write_json

PATCH = 8
BATCH = 16  # images that are enlarged at a time

# The smallest and the largest value that is accepted, by the name of a number.
REQUIREMENTS = {
    'label_agreement': (0.95, 1.0),
    'upsampler_consistency': (0.0, 6.0),
    'upsampler_gradient_energy': (0.7, 1.3),
    'upsampler_frechet_over_bicubic': (0.0, 0.5),
}


def crops(folder: Path, split: str, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split, uint8 [N, H, W, 3], and their labels [N], as a training reads them."""
    source = make_source(DataConfig(name='auto', path=str(folder), image_channels=3), split)
    return np.stack([center_crop(source[i]['image'], size) for i in range(len(source))]), source.labels


def descriptors(images: np.ndarray) -> np.ndarray:
    """Histograms of colours, and of sizes and directions of gradients, float [N, 236]; where is not told."""
    return np.stack([_descriptor(image / 255) for image in images])


def _descriptor(image: np.ndarray) -> np.ndarray:
    colours = np.histogramdd(image.reshape(-1, 3), bins=(6, 6, 6), range=3 * [(0, 1)])[0].ravel()
    grey = image.mean(axis=-1)
    vertical, horizontal = np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1]
    size = np.hypot(vertical, horizontal).ravel()
    direction = np.arctan2(np.abs(vertical), np.abs(horizontal)).ravel()  # the same in a mirror
    edges = [[0, 0.02, 0.05, 0.1, 0.2, 2], [0, 0.4, 0.8, 1.2, 1.6]]
    gradients = np.histogram2d(size, direction, bins=edges)[0].ravel()
    return np.sqrt(np.concatenate([colours / colours.sum(), gradients / gradients.sum()]))


def patches(images: np.ndarray, stride: int) -> Moments:
    """The Gaussian of all PATCH × PATCH patches at multiples of the stride."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return fit(window.reshape(-1, images.shape[-1] * PATCH**2) / 255 for window in windows)


def measure_samples(folder: Path, run: Path, size: Size) -> dict[str, float]:
    """Label agreement and Fréchet distances of the samples of a run, by name."""
    samples = {'': open_samples(run / 'samples')}
    if (run / 'samples' / 'unguided').exists():
        samples['unguided_'] = open_samples(run / 'samples' / 'unguided')
    train, labels = crops(folder, 'train', size)
    test, test_labels = crops(folder, 'test', size)
    judge = SVC(C=10).fit(descriptors(train), labels)
    halves = (patches(train[start::2], PATCH // 2) for start in (0, 1))
    real = {'train': patches(train, PATCH // 2), 'test': patches(test, PATCH // 2)}
    result = {
        'judge_test_accuracy': judge.score(descriptors(test), test_labels),
        'halves_frechet_train': frechet_distance(*halves),
        'real_frechet_test': frechet_distance(*real.values()),
    }
    for name, images in samples.items():
        pixels = images.read_all()
        result[f'{name}label_agreement'] = judge.score(descriptors(pixels), images.labels)
        for split, expected in real.items():
            result[f'{name}frechet_{split}'] = frechet_distance(patches(pixels, PATCH // 2), expected)
    return result


def measure_upsampler(folder: Path, run: Path, size: Size, number: int) -> dict[str, float]:
    """What a run makes of test crops that are reduced to a size, and what bicubic interpolation does."""
    model = diffusion_jax.load(run)
    truth, labels = crops(folder, 'test', model.unet.image_size)
    chosen = np.linspace(0, len(truth) - 1, min(number, len(truth))).round().astype(int)  # of all classes
    truth, labels = truth[chosen], labels[chosen]
    small = reduce_images(truth, size)
    enlarged = {'upsampler': enlarge(model, small, labels), 'bicubic': bicubic(small, model.unet.image_size)}
    return compare(truth, small, enlarged)


def compare(truth: np.ndarray, small: np.ndarray, enlarged: dict[str, np.ndarray]) -> dict[str, float]:
    """Numbers of enlargements of small images against the truth, by name; see the docstring of the file."""
    result = {'crops': float(len(truth))}
    real = patches(truth, PATCH)
    for name, images in enlarged.items():
        error = reduce_images(images, small.shape[1:3]).astype(float) - small
        result[f'{name}_consistency'] = float(np.sqrt(np.mean(error**2)))
        result[f'{name}_gradient_energy'] = gradient_energy(images) / gradient_energy(truth)
        result[f'{name}_frechet'] = frechet_distance(patches(images, PATCH), real)
    result['upsampler_frechet_over_bicubic'] = result['upsampler_frechet'] / result['bicubic_frechet']
    return result


def enlarge(model: diffusion_jax.Generator, small: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The enlargements by the model, as its run samples them, uint8 [N, H, W, 3]."""
    batches = []
    for first in range(0, len(small), BATCH):
        rows = slice(first, first + BATCH)
        y = labels[rows] if model.unet.num_classes else None
        count = len(small[rows])
        batches.append(model.sample(count, y, first=first, low_res=small[rows]).images)
    return np.concatenate(batches)


def bicubic(small: np.ndarray, size: Size) -> np.ndarray:
    resized = (Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC) for image in small)
    return np.stack([np.asarray(image) for image in resized])


def gradient_energy(images: np.ndarray) -> float:
    """The mean square difference of neighbouring pixels."""
    pixels = images.astype(np.float32)
    return float(sum(np.mean(np.diff(pixels, axis=axis) ** 2) for axis in (1, 2)))


def missed(result: dict[str, float]) -> list[str]:
    """The message for each requirement that is missed."""
    lines = []
    for name, (lowest, highest) in REQUIREMENTS.items():
        if name in result and not lowest <= result[name] <= highest:
            lines.append(f'{name} is {result[name]:.3g}, not from {lowest:g} to {highest:g}')
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images', type=Path, help='a folder with train/<class> and test/<class>')
    parser.add_argument('run', type=Path, help='where configs/photos.py was run')
    parser.add_argument('upsampler', type=Path, nargs='?', help='where configs/photos_upsampler.py was run')
    parser.add_argument('--crops', type=int, default=256, help='the number of crops to enlarge')
    args = parser.parse_args(argv)
    height, width = open_samples(args.run / 'samples').take(np.arange(1)).shape[1:3]
    result = measure_samples(args.images, args.run, (height, width))
    if args.upsampler is not None:
        result |= measure_upsampler(args.images, args.upsampler, (height, width), args.crops)
    write_json(args.run / 'acceptance.json', result)
    for name, value in result.items():
        print(f'  {name.replace("_", " "):<34}{value:.4f}')
    if lines := missed(result):
        print('; '.join(lines), file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
