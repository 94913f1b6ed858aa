"""Measure the memory of a gradient through a sampler, with and without rematerialisation.

    python experiments/gradient_memory.py     # the digits' networks, 8 images, DDIM in 100 steps

The gradient of the images' mean with respect to x_T is compiled, not run: the numbers are the compiler's, for
one device. Writes gradient_memory.md to experiments/results/. Takes a few minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion_jax import models
from diffusion_jax.command_line import read_config
from diffusion_jax.config import read_without_images
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation import generate
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Request

CONFIG = Path(__file__).parent.parent / 'configs' / 'digits.py'
RESULTS = Path(__file__).parent / 'results'
RESPACING, BATCH = 'ddim100', 8


def peak_bytes(experiment: Experiment, *, guided: bool, remat: bool) -> int:
    """Arguments, result and temporary buffers of the gradient on one device."""
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

    memory = jax.jit(jax.grad(brightness)).lower(x_T, params, request).compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    experiment = read_without_images(read_config(str(CONFIG)))
    lines = [
        f'Gradient of the mean of {BATCH} images with respect to x_T; networks of configs/digits.py, '
        f'{RESPACING}, float32. Compiled, not run: the sum of arguments, result and temporary buffers on one '
        f'device. {platform.machine()}, {jax.devices()[0].device_kind}; Python {platform.python_version()}, '
        + ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'jaxlib', 'flax'))
        + '.',
        '',
        '| sampler | remat=False, MB | remat=True, MB |',
        '|---|---|---|',
    ]
    for name, guided in (('DDIM, unguided', False), ('DDIM, guided by the classifier', True)):
        row = [peak_bytes(experiment, guided=guided, remat=remat) / 1e6 for remat in (False, True)]
        lines.append(f'| {name} | {row[0]:,.0f} | {row[1]:,.0f} |')
        print(lines[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / 'gradient_memory.md').write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
