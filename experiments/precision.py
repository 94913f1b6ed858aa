"""Measure what the dtype of each network changes in guided samples, from the same noise.

    python experiments/precision.py runs/digits
    python experiments/precision.py 64x64_diffusion.safetensors 64x64_classifier.safetensors --num=16

The difference of an image to float32 is the root mean square over its pixels, in units of 1/255. A few images
change more than others, because guidance amplifies small differences. On CPUs 'tensorfloat32' is float32.
"""

import argparse
import dataclasses

import jax
import numpy as np

import diffusion_jax

PAIRS = (
    ('bfloat16', 'float32'),
    ('float32', 'bfloat16'),
    ('float32', 'tensorfloat32'),
    ('bfloat16', 'bfloat16'),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', nargs='+', help='a run, or the files of a diffusion model and a classifier')
    parser.add_argument('--num', type=int, default=100, help='number of samples')
    options = parser.parse_args()
    model = diffusion_jax.load(*options.files)
    classes = np.arange(options.num) % model.classifier.num_classes

    def samples(unet: str, classifier: str) -> np.ndarray:
        other = dataclasses.replace(
            model,
            unet=dataclasses.replace(model.unet, dtype=unet),
            classifier=dataclasses.replace(model.classifier, dtype=classifier),
        )
        return 127.5 * other.sample(options.num, classes, seed=0, floats=True).x_0

    exact = samples('float32', 'float32')
    device = jax.devices()[0].device_kind
    print(f'{device}, jax {jax.__version__}, {options.num} samples of {options.files}\n')
    print('| diffusion model | classifier | median image | mean | largest |\n|---|---|---|---|---|')
    for unet, classifier in PAIRS:
        difference = np.sqrt(np.mean((samples(unet, classifier) - exact) ** 2, axis=(1, 2, 3)))
        numbers = (np.median(difference), np.mean(difference), np.max(difference))
        print(f'| {unet} | {classifier} | ' + ' | '.join(f'{n:.3f}' for n in numbers) + ' |', flush=True)


if __name__ == '__main__':
    main()
