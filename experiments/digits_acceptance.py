"""Measure how many guided digits of a run show the digit of their label.

    python experiments/digits_acceptance.py runs/digits    # after configs/digits.py, as `make demo` does

An independent classifier, a support vector machine trained on real digits only, classifies the samples.
Prints its agreement with their labels, its accuracy on real test digits, and the Fréchet distance between
real training and test digits, a lower bound for samples. Writes <workdir>/agreement.json. The exit code is 1
if guided samples agree less than --required.
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np

from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.evaluation.extractors import pixels
from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.workdir import write_json

REQUIRED = 0.95


def label_agreement(images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images, uint8 [N, 8, 8, 1], in which the classifier sees the digit of their label."""
    return float(np.mean(_classifier().predict(pixels(images)) == labels))


@functools.cache
def _classifier():
    from sklearn.svm import SVC

    train = digits_source('train')
    return SVC(kernel='rbf', C=1.0, gamma=0.3).fit(pixels(train.images), train.labels)


def measure(workdir: Path) -> dict[str, float]:
    """The numbers of a run, by name."""
    train, test = (digits_source(split) for split in ('train', 'test'))
    real = (moments(pixels(split.images)) for split in (train, test))
    result = {
        'judge_test_accuracy': label_agreement(test.images, test.labels),
        'real_frechet_distance': frechet_distance(*real),
    }
    for name, folder in (('label_agreement', 'samples'), ('unguided_label_agreement', 'samples/unguided')):
        if (workdir / folder).exists():
            samples = open_samples(workdir / folder)
            result[name] = label_agreement(samples.read_all(), samples.labels)
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('workdir', type=Path, help='where configs/digits.py was run')
    parser.add_argument('--required', type=float, default=REQUIRED, help='share of the labels, from 0 to 1')
    args = parser.parse_args(argv)
    result = measure(args.workdir)
    write_json(args.workdir / 'agreement.json', result)
    for name, value in result.items():
        print(f'  {name.replace("_", " "):<26}{value:.4f}')
    if result['label_agreement'] < args.required:
        print(f'label agreement is below {args.required:.1%}; train longer', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
