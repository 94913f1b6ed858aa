"""Restore test digits from masked and from averaged pixels with noise, by several methods.

    python -m diffusion_jax.main --config=digits --workdir=runs/digits   # or: make demo
    python experiments/restoration.py runs/digits                        # 10 minutes on 2 CPU cores

8 digits, each restored eight times. PSNR, in dB, is that of one restored image and of the mean of the eight.
The spread is the standard deviation of a pixel over the eight, of 255. The misfit is the root mean square
distance to the measurement in standard deviations of its noise: 1 for the truth. Writes restoration.md and
restoration.png (measurement, truth, then for each method two restorations) to experiments/results/.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diffusion_jax
from diffusion_jax.data.sources.digits import digits_source
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
NOISE, COUNT, REPEATS, PARTICLES = 0.1, 8, 8, 16  # the noise is that of images in [−1, 1]

# What a request has in addition to the images' number.
METHODS: dict[str, Callable[[Measurement], dict[str, Any]]] = {
    'no measurement': lambda m: {'sampler': 'ddpm', 'respacing': '100'},
    'DiffPIR': lambda m: {'sampler': DiffPIR(m), 'respacing': '100'},
    'DDRM': lambda m: {'sampler': DDRM(m), 'respacing': '100'},
    'ΠGDM, DDIM with η = 1': lambda m: {'sampler': 'ddim:eta=1', 'respacing': '100', 'guidance': PiGDM(m)},
    'ΠGDM, DDPM': lambda m: {'sampler': 'ddpm', 'respacing': '100', 'guidance': PiGDM(m)},
    'ΠGDM, SMC': lambda m: {'sampler': SMC(PARTICLES, 0.5), 'respacing': '100', 'guidance': PiGDM(m)},
    'DPS': lambda m: {'sampler': DPS(m, zeta=0.3), 'respacing': '100'},
    'RED-diff': lambda m: {'sampler': REDDiff(m), 'respacing': '100'},
}
PROBLEMS: dict[str, Operator] = {
    'the middle 4×4 pixels are missing': Mask(
        np.pad(np.zeros((4, 4, 1)), [(2, 2), (2, 2), (0, 0)], constant_values=1)
    ),
    'means of 2×2 pixels': Downsample(2),
}


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """The mean over images in [−1, 1]."""
    error = np.mean((np.clip(images, -1, 1) - truth) ** 2, axis=(-3, -2, -1))
    return float(np.mean(10 * np.log10(4 / error)))


def restore(
    model: Any, truth: np.ndarray, measured: np.ndarray, operator: Operator, method: str
) -> np.ndarray:
    """[COUNT, REPEATS, H, W, C] in [−1, 1]; of particles, REPEATS drawn by their weights."""
    repeats = PARTICLES if 'SMC' in method else REPEATS
    measurement = Measurement(operator, np.repeat(measured, repeats, axis=0), NOISE)
    request = {'guidance': ''} | METHODS[method](measurement)
    samples = model.sample(COUNT * repeats, floats=True, **request)
    images = np.asarray(samples.x_0).reshape(COUNT, repeats, *truth.shape[1:])
    if samples.log_weight is None:
        return images
    weights = np.exp(samples.log_weight.reshape(COUNT, -1).astype(np.float64))
    rng = np.random.default_rng(0)
    chosen = [rng.choice(repeats, REPEATS, p=each / each.sum()) for each in weights]
    return np.stack([population[rows] for population, rows in zip(images, chosen, strict=True)])


def row(method: str, images: np.ndarray, truth: np.ndarray, measured: np.ndarray, operator: Operator) -> str:
    kept = np.broadcast_to(np.asarray(operator(np.ones_like(truth))) != 0, measured.shape)
    misfit = [measured - np.asarray(operator(images[:, i])) for i in range(REPEATS)]
    numbers = [
        psnr(images, truth[:, None]),
        psnr(images.mean(axis=1), truth),
        127.5 * float(images.std(axis=1).mean()),
        float(np.sqrt(np.mean(np.stack(misfit)[:, kept] ** 2))) / NOISE,
    ]
    return f'| {method} | ' + ' | '.join(f'{number:.1f}' for number in numbers) + ' |'


def picture(columns: list[np.ndarray]) -> Image.Image:
    """Images [COUNT, 8, 8, 1] in columns, the first of each row being the measurement."""
    pixels = np.clip(127.5 * (np.concatenate(columns, axis=2)[:, :, :, 0] + 1), 0, 255).astype(np.uint8)
    return Image.fromarray(np.concatenate(pixels)).resize(
        (24 * len(columns) * 2, 24 * COUNT * 2), Image.NEAREST
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('workdir', type=Path, help='where configs/digits.py was run')
    model = diffusion_jax.load(parser.parse_args().workdir)
    truth, rng = np.asarray(to_float(digits_source('test').images[:COUNT])), np.random.default_rng(0)
    lines, columns = [], []
    for problem, operator in PROBLEMS.items():
        clean = np.asarray(operator(truth))
        kept = np.asarray(operator(np.ones_like(truth))) != 0
        measured = clean + NOISE * kept * rng.standard_normal(clean.shape)
        shown = np.where(kept, measured, -1.0)
        columns += [shown.repeat(8 // shown.shape[1], 1).repeat(8 // shown.shape[2], 2), truth]
        lines += [
            '',
            f'{problem[0].upper()}{problem[1:]}:',
            '',
            '| method | PSNR | PSNR of the mean | spread | misfit |',
            '|---|---|---|---|---|',
        ]
        for method in METHODS:
            images = restore(model, truth, measured, operator, method)
            lines.append(row(method, images, truth, measured, operator))
            print(lines[-1], flush=True)
            columns += [images[:, 0], images[:, 1]]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / 'restoration.md').write_text('\n'.join(lines[1:]) + '\n')
    picture(columns).save(RESULTS / 'restoration.png')


if __name__ == '__main__':
    main()
