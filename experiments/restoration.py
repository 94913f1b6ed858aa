"""Restore images from masked and from averaged pixels with noise, by several methods.

    python -m diffusion_jax.main --config=digits --workdir=runs/digits   # or: make demo
    python experiments/restoration.py runs/digits                        # 10 minutes on 2 CPU cores

    python experiments/photo_crops.py images
    python -m diffusion_jax.main --config=photos --config.data.path=images --workdir=runs/small \
        --config.data.image_size=16,16
    python experiments/restoration.py runs/small --images images --count 6 --repeats 4 --respacing ddim50

Test images, digits or photographs of each class in turn, are restored several times. PSNR, in dB, is that of
one restored image and of the mean of all. The spread is the standard deviation of a pixel over the
restorations, of 255. The misfit is the root mean square distance to the measurement in standard deviations of
its noise: 1 for the truth. Writes restoration_digits.md or restoration_photos.md, and a .png (measurement,
truth, then for each method two restorations), to experiments/results/.

The grid 50 begins at the last timestep, where DDIM multiplies a gradient by 632: see
docs/inverse_problems.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diffusion_jax
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.data.transforms import center_crop
from diffusion_jax.diffusion.inverse import (
    DDRM,
    DPS,
    DiffPIR,
    Downsample,
    Mask,
    Measurement,
    Operator,
    PiGDM,
    REDDiff,
)
from diffusion_jax.diffusion.samplers import SMC
from diffusion_jax.images import to_float

RESULTS = Path(__file__).parent / 'results'
NOISE, PARTICLES = 0.1, 16  # the noise is that of images in [−1, 1]

# What a request has in addition to the number of images and the noise levels.
METHODS: dict[str, Callable[[Measurement], dict[str, Any]]] = {
    'no measurement': lambda m: {'sampler': 'ddpm'},
    'DiffPIR': lambda m: {'sampler': DiffPIR(m)},
    'DDRM': lambda m: {'sampler': DDRM(m)},
    'ΠGDM, DDIM with η = 1': lambda m: {'sampler': 'ddim:eta=1', 'guidance': PiGDM(m)},
    'ΠGDM, DDPM': lambda m: {'sampler': 'ddpm', 'guidance': PiGDM(m)},
    'ΠGDM, SMC': lambda m: {'sampler': SMC(PARTICLES, 0.5), 'guidance': PiGDM(m)},
    'DPS': lambda m: {'sampler': DPS(m, zeta=0.3)},
    'RED-diff': lambda m: {'sampler': REDDiff(m)},
}


def problems(size: int) -> dict[str, Operator]:
    """What is known of an image of this height and width: a frame, or means over areas."""
    side, factor = size // 2, 4 if size > 8 else 2
    middle = np.pad(np.zeros((side, side, 1)), [(size // 4, size // 4)] * 2 + [(0, 0)], constant_values=1)
    return {
        f'the middle {side}×{side} pixels are missing': Mask(middle),
        f'means of {factor}×{factor} pixels': Downsample(factor),
    }


def test_images(model: Any, folder: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits, or the test images of a folder, every class in turn: [N, H, W, C] in [−1, 1], and labels."""
    if not folder:
        digits = digits_source('test')
        return np.asarray(to_float(digits.images[:count])), digits.labels[:count]
    size, channels = model.unet.image_size, model.unet.image_channels
    source = make_source(DataConfig('auto', folder, image_size=size, image_channels=channels), 'test')
    of_class = [np.flatnonzero(source.labels == label) for label in range(len(source.class_names))]
    chosen = [of_class[i % len(of_class)][i // len(of_class)] for i in range(count)]
    images = np.stack([center_crop(source[int(i)]['image'], size) for i in chosen])
    return np.asarray(to_float(images)), source.labels[chosen]


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """The mean over images in [−1, 1]."""
    error = np.mean((np.clip(images, -1, 1) - truth) ** 2, axis=(-3, -2, -1))
    return float(np.mean(10 * np.log10(4 / error)))


def restore(
    model: Any,
    y: np.ndarray,
    measured: np.ndarray,
    operator: Operator,
    method: str,
    repeats: int,
    respacing: str,
) -> np.ndarray:
    """[N, repeats, H, W, C] in [−1, 1]; of particles, some drawn by their weights."""
    number = PARTICLES if 'SMC' in method else repeats
    measurement = Measurement(operator, np.repeat(measured, number, axis=0), NOISE)
    request = {'guidance': '', 'respacing': respacing} | METHODS[method](measurement)
    samples = model.sample(len(y) * number, np.repeat(y, number), floats=True, **request)
    images = np.asarray(samples.x_0).reshape(len(y), number, *samples.x_0.shape[1:])
    if samples.log_weight is None:
        return images
    log_weight = samples.log_weight.reshape(len(y), -1).astype(np.float64)
    weights = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    rng = np.random.default_rng(0)
    chosen = [rng.choice(number, repeats, p=each / each.sum()) for each in weights]
    return np.stack([population[rows] for population, rows in zip(images, chosen, strict=True)])


def row(method: str, images: np.ndarray, truth: np.ndarray, measured: np.ndarray, operator: Operator) -> str:
    kept = np.broadcast_to(np.asarray(operator(np.ones_like(truth))) != 0, measured.shape)
    misfit = [measured - np.asarray(operator(images[:, i])) for i in range(images.shape[1])]
    numbers = [
        psnr(images, truth[:, None]),
        psnr(images.mean(axis=1), truth),
        127.5 * float(images.std(axis=1).mean()),
        float(np.sqrt(np.mean(np.stack(misfit)[:, kept] ** 2))) / NOISE,
    ]
    return f'| {method} | ' + ' | '.join(f'{number:.1f}' for number in numbers) + ' |'


def picture(columns: list[np.ndarray]) -> Image.Image:
    """Images [N, H, W, C] in columns, the first of each row being the measurement."""
    pixels = np.clip(127.5 * (np.concatenate(columns, axis=2) + 1), 0, 255).astype(np.uint8)
    sheet = Image.fromarray(np.concatenate(pixels).squeeze())
    scale = 48 / columns[0].shape[1]
    return sheet.resize((int(scale * sheet.width), int(scale * sheet.height)), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('workdir', type=Path, help='where configs/digits.py or configs/photos.py was run')
    parser.add_argument('--images', default='', help='the folder of the photographs; without it, digits')
    parser.add_argument('--count', type=int, default=8, help='images that are restored')
    parser.add_argument('--repeats', type=int, default=8, help='restorations of each')
    parser.add_argument('--respacing', default='100', help='the grid of noise levels')
    options = parser.parse_args()
    model = diffusion_jax.load(options.workdir)
    truth, labels = test_images(model, options.images, options.count)
    rng, name = np.random.default_rng(0), 'restoration_photos' if options.images else 'restoration_digits'
    lines, columns = [], []
    for problem, operator in problems(truth.shape[1]).items():
        clean = np.asarray(operator(truth))
        kept = np.asarray(operator(np.ones_like(truth))) != 0
        measured = clean + NOISE * kept * rng.standard_normal(clean.shape)
        shown = np.where(kept, measured, -1.0)
        factor = truth.shape[1] // shown.shape[1]
        columns += [shown.repeat(factor, 1).repeat(factor, 2), truth]
        lines += [
            '',
            f'{problem[0].upper()}{problem[1:]}:',
            '',
            '| method | PSNR | PSNR of the mean | spread | misfit |',
            '|---|---|---|---|---|',
        ]
        for method in METHODS:
            images = restore(model, labels, measured, operator, method, options.repeats, options.respacing)
            lines.append(row(method, images, truth, measured, operator))
            print(lines[-1], flush=True)
            columns += [images[:, 0], images[:, 1]]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f'{name}.md').write_text('\n'.join(lines[1:]) + '\n')
    picture(columns).save(RESULTS / f'{name}.png')


if __name__ == '__main__':
    main()
