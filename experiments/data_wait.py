"""Measure how long a training waits for its data: batches made on demand, and ahead by a thread.

python experiments/data_wait.py [STEPS]

Steps are sleeps of 2 to 10 ms, about as long as those of the digits' networks on a fast GPU. The data are
real: the digits in memory, and images in memory that are cropped and mirrored at random. Only the host's time
matters, so a CPU is enough.
"""

import functools
import itertools
import os
import platform
import sys
import time

import jax
import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import Source, make_source
from diffusion_jax.data.sources.base import ArraySource
from diffusion_jax.data.transforms import Transform, make_transform, uncropped
from diffusion_jax.sharding import make_mesh, put_batch
from diffusion_jax.training.timing import Timer

MILLISECONDS = (2, 4, 10)
BATCH = 64


def waiting(source: Source, transform: Transform, ahead: int, step: float, steps: int) -> float:
    """The share of the time for which `next(batches)` was waited, over steps that take this many seconds.

    Args:
        ahead: the number of threads that make batches ahead; 0 makes each when it is asked for.
    """
    place = functools.partial(put_batch, make_mesh())
    data = batches(source, BATCH, seed=0, transform=transform, num_workers=ahead, place=place)
    timer = Timer(BATCH)
    for _ in range(steps):
        with timer.spending('waiting'):
            next(data)
        time.sleep(step)
        timer.count_step(())
    data.close()
    return timer.flush()['time/data_wait']


def colour_images(size: int = 24) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (400, size, size, 3), np.uint8)
    return ArraySource(images, np.zeros(len(images), np.int32), ('any',))


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    config = DataConfig('folder', image_size=(24, 24), image_channels=3)
    kinds = {
        'digits, 8×8': (make_source(DataConfig('digits'), 'train'), uncropped),
        'random crops, 24×24': (colour_images(), make_transform(config, crop_randomly=True, flip=True)),
    }
    print(
        f'{platform.machine()}, {os.cpu_count()} CPUs, jax {jax.__version__}, batch {BATCH}, {steps} steps\n'
    )
    print('| data | step, ms | waiting, on demand | waiting, one thread ahead |\n|---|---|---|---|')
    for (name, (source, transform)), step in itertools.product(kinds.items(), MILLISECONDS):
        shares = [waiting(source, transform, ahead, step / 1000, steps) for ahead in (0, 1)]
        print(f'| {name} | {step} | {shares[0]:.1%} | {shares[1]:.1%} |')


if __name__ == '__main__':
    main()
