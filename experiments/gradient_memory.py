"""Measure the memory and time of a gradient through a sampler, with and without rematerialisation.

    python experiments/gradient_memory.py     # the digits' networks, 8 images, 100 steps

Sampling: the gradient of the images' mean with respect to x_T is compiled, not run. Purification: that with
respect to the images, from σ = 0.52 (t = 150 of 1,000 of the linear schedule), is also run, with random
parameters. Memory is the compiler's, for one device. Writes gradient_memory.md to experiments/results/. Takes
a few minutes on 2 CPU cores.
"""

import argparse
import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import models
from diffusion_jax.command_line import read_config
from diffusion_jax.config import read_without_images
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation import generate, purify
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Request

CONFIG = Path(__file__).parent.parent / 'configs' / 'digits.py'
RESULTS = Path(__file__).parent / 'results'
RESPACING, BATCH = 'ddim100', 8
STEPS, START = '100', 0.52


def memory_of(compiled: jax.stages.Compiled) -> float:
    """Arguments, result and temporary buffers on one device, in MB."""
    memory = compiled.memory_analysis()
    parts = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    return sum(parts) / 1e6


def sampling_gradient(experiment: Experiment, guided: bool, remat: bool) -> jax.stages.Compiled:
    """The gradient of the mean of sampled images with respect to x_T."""
    unet, classifier = experiment.unet, experiment.classifier if guided else None
    networks = Networks(unet, experiment.diffusion, classifier)
    params = {'diffusion': models.param_shapes(unet)}
    if guided:
        params['classifier'] = models.param_shapes(classifier)
    guidance = (ClassifierGuidance(jnp.float32(1.0)),) if guided else ()
    recipe = Recipe(DDIM(jnp.float32(0.0)), guidance, RESPACING)
    numbers = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    request = Request(jax.ShapeDtypeStruct((), jnp.uint32), numbers, numbers, recipe)
    x_T = jax.ShapeDtypeStruct((BATCH, *unet.image_size, unet.image_channels), jnp.float32)

    def brightness(x_T: jax.Array, params: dict, request: Request) -> jax.Array:
        return generate(networks, params, request._replace(x_T=x_T), remat=remat).x_0.mean()

    return jax.jit(jax.grad(brightness)).lower(x_T, params, request).compile()


def purification(experiment: Experiment, gradient: bool, remat: bool) -> functools.partial[jax.Array]:
    """Computes the mean of purified images, or its gradient with respect to the images."""
    unet = experiment.unet
    networks = Networks(unet, experiment.diffusion)
    done = int(np.argmax(make_grid(experiment.diffusion, STEPS).level.edm_sigma <= START))
    params = {'diffusion': jax.jit(models.init, static_argnums=0)(unet, jax.random.key(0))}
    index = jnp.arange(BATCH, dtype=jnp.int32)
    request = Request(jnp.uint32(0), index, index, Recipe(DDPM(), (), STEPS))

    def brightness(images: jax.Array, params: dict, request: Request) -> jax.Array:
        return purify(networks, params, request, images, done=done, remat=remat).mean()

    function = jax.jit(jax.grad(brightness) if gradient else brightness)
    arguments = jnp.zeros((BATCH, *unet.image_size, unet.image_channels)), params, request
    return functools.partial(function.lower(*arguments).compile(), *arguments)


def seconds_of(functions: Sequence[Callable[[], jax.Array]]) -> list[float]:
    """The median of 5 runs of each, which take turns."""
    seconds = []
    for turn in range(6):
        for function in functions:
            begin = time.perf_counter()
            jax.block_until_ready(function())
            if turn:  # the first is for the caches
                seconds.append(time.perf_counter() - begin)
    return [float(np.median(seconds[k :: len(functions)])) for k in range(len(functions))]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    experiment = read_without_images(read_config(str(CONFIG)))
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'jaxlib', 'flax'))
    load, kind = os.getloadavg()[0], jax.devices()[0].device_kind
    machine = f'{platform.machine()}, {os.cpu_count()} cores, load {load:.0f}, {kind}'
    lines = [
        f'Networks of configs/digits.py, {BATCH} images, float32. Memory: the sum of arguments, result and '
        f'temporary buffers on one device, by the compiler. {machine}; Python {platform.python_version()}, '
        f'{versions}.',
        '',
        f'Gradient of the mean of the images with respect to x_T, {RESPACING}; compiled, not run:',
        '',
        '| sampler | remat=False, MB | remat=True, MB |',
        '|---|---|---|',
    ]
    for name, guided in (('DDIM, unguided', False), ('DDIM, guided by the classifier', True)):
        row = [
            memory_of(sampling_gradient(experiment, guided=guided, remat=remat)) for remat in (False, True)
        ]
        lines.append(f'| {name} | {row[0]:,.0f} | {row[1]:,.0f} |')
        print(lines[-1], flush=True)
    steps = int((make_grid(experiment.diffusion, STEPS).level.edm_sigma <= START).sum())
    lines += [
        '',
        f'Purification from σ = {START} by DDPM, {steps} of {STEPS} steps; seconds are the median of 5 runs '
        'that take turns:',
        '',
        '| what | MB | seconds |',
        '|---|---|---|',
    ]
    kinds = {
        'images': (False, False),
        'gradient, remat=False': (True, False),
        'gradient, remat=True': (True, True),
    }
    functions = [purification(experiment, gradient, remat) for gradient, remat in kinds.values()]
    for name, function, seconds in zip(kinds, functions, seconds_of(functions), strict=True):
        lines.append(f'| {name} | {memory_of(function.func):,.0f} | {seconds:.2f} |')
        print(lines[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / 'gradient_memory.md').write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
