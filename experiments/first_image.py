"""Seconds until a new process has made one guided image, as a notebook or the stage `sample` makes it.

    JAX_COMPILATION_CACHE_DIR=/tmp/cache python experiments/first_image.py configs/imagenet256.py

Run it twice: the second time programs come out of the cache. Parameters are random numbers; a file of weights
is not read.
"""

import time

STARTED = time.perf_counter()

import sys  # noqa: E402

import jax  # noqa: E402
from benchmarking.programs import drawn_params  # noqa: E402

from diffusion_jax.command_line import read_config  # noqa: E402
from diffusion_jax.config import read_without_images  # noqa: E402
from diffusion_jax.generation.generator import Generator  # noqa: E402
from diffusion_jax.sharding import make_mesh, replicated  # noqa: E402


def main(config: str, settings: list[str]) -> None:
    experiment = read_without_images(read_config(config, settings))
    imported, marks = time.perf_counter(), []
    mesh = make_mesh(devices=jax.local_devices()[:1])
    unet, classifier = experiment.unet, experiment.classifier
    params = {'diffusion': drawn_params(unet), 'classifier': drawn_params(classifier)}
    params = jax.block_until_ready(jax.device_put(params, replicated(mesh)))
    loaded = time.perf_counter()
    recipes = (('config', experiment.sample.as_recipe()),)
    model = Generator(unet, experiment.diffusion, params, mesh, classifier, recipes)
    model.sample(1, 0, progress=lambda done, steps: marks.append(time.perf_counter()))
    print(f'imports {imported - STARTED:.1f} s, parameters {loaded - imported:.1f} s')
    print(f'first steps with compilation {marks[1] - loaded:.1f} s')
    print(f'other steps {time.perf_counter() - marks[1]:.1f} s')


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
