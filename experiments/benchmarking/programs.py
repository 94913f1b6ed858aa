"""The programs that are timed: each part of a config, with random parameters and images."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import models
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation import sampling
from diffusion_jax.generation.arguments import traced
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.program import jitted, sample_program
from diffusion_jax.generation.sampling import Request
from diffusion_jax.images import to_float
from diffusion_jax.planning.needs import make_program
from diffusion_jax.program import Program
from diffusion_jax.sharding import abstract_on, batch_sharding, replicated
from diffusion_jax.training.objectives import classifier_objective, diffusion_objective
from diffusion_jax.training.program import first_state

STEPS = 5  # of a sampling call, as the generator makes them for a recipe with 250 steps
NUM_DRAWN = 1_000_003  # random numbers that are drawn; larger kernels repeat them


class Setup(NamedTuple):
    experiment: Experiment
    mesh: jax.sharding.Mesh
    batch_size: int


class Case(NamedTuple):
    """A program, a function that makes its arguments on the devices, and the steps of a call.

    donates: the first argument is donated, and replaced by the first result.
    """

    program: Program
    arguments: Callable[[], tuple]
    steps: int = 1
    donates: bool = False

    def seconds(self, compiled: jax.stages.Compiled) -> Iterator[float]:
        """The time of a step, call after call, until its results are complete."""
        arguments = self.arguments()
        while True:
            called = time.perf_counter()
            result = jax.block_until_ready(compiled(*arguments))
            yield (time.perf_counter() - called) / self.steps
            if self.donates:
                arguments = (result[0], *arguments[1:])


def drawn_params(network: models.UNetConfig | models.ClassifierConfig) -> models.Params:
    """NumPy parameters: kernels from N(0, 1/fan-in), scales 1, biases 0.

    They are drawn on the host, since `models.init` is slow to compile for large networks. No kernel is 0, as
    some are after `init`, so that nothing is cheaper than in a trained network.
    """
    numbers = np.random.default_rng(0).standard_normal(NUM_DRAWN, np.float32)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim > 1:
            return np.resize(numbers, leaf.shape) / np.float32(math.prod(leaf.shape[:-1]) ** 0.5)
        return np.full(leaf.shape, path[-1].key == 'scale', np.float32)

    return jax.tree_util.tree_map_with_path(draw, models.param_shapes(network))


def draw_batch(setup: Setup) -> dict[str, jax.Array | None]:
    """Random uint8 images of the data's size, smaller ones for an upsampler, labels and indices."""
    data, rng = setup.experiment.data, np.random.default_rng(0)

    def images(size: tuple[int, int]) -> np.ndarray:
        return rng.integers(0, 256, (setup.batch_size, *size, data.image_channels), np.uint8)

    index = np.arange(setup.batch_size, dtype=np.int32)
    batch = {
        'image': images(data.image_size),
        'low_res': images(data.low_res_size) if data.low_res_size else None,
        'label': index % data.num_classes,
        'index': index,
    }
    return jax.device_put(batch, batch_sharding(setup.mesh))


def forward_case(setup: Setup) -> Case:
    unet, on_all = setup.experiment.unet, replicated(setup.mesh)

    def forward(params: models.Params, batch: dict[str, Any]) -> jax.Array:
        low_res = None if batch['low_res'] is None else to_float(batch['low_res'])
        t = batch['index']  # any will do
        return models.apply(unet, params, to_float(batch['image']), t, batch['label'], low_res=low_res)

    batch = draw_batch(setup)
    shapes = abstract_on(on_all, models.param_shapes(unet)), abstract_on(batch_sharding(setup.mesh), batch)
    return Case(
        Program(jax.jit(forward), shapes), lambda: (jax.device_put(drawn_params(unet), on_all), batch)
    )


def train_case(setup: Setup, stage: str) -> Case:
    config = getattr(setup.experiment, stage)
    config = dataclasses.replace(config, batch_size=setup.batch_size, microbatches=1)
    experiment = dataclasses.replace(setup.experiment, **{stage: config})
    program = make_program(experiment, stage, setup.mesh)
    if stage == 'train':
        network = experiment.unet
        objective = diffusion_objective(network, experiment.diffusion, experiment.data.low_res_size)
    else:
        network = experiment.classifier
        objective = classifier_objective(network, experiment.diffusion)

    def arguments() -> tuple:
        key, (state, batch) = jax.random.key(experiment.seed), program.arguments
        drawn = draw_batch(setup)
        state = first_state(objective, network, config, state, key, drawn_params(network))
        return state, {name: drawn[name] for name in batch}

    return Case(program, arguments, donates=True)


def sample_case(setup: Setup, *, guided: bool) -> Case:
    experiment = setup.experiment
    networks = Networks(experiment.unet, experiment.diffusion, experiment.classifier if guided else None)
    recipe = experiment.sample.as_recipe()
    recipe = recipe if guided else recipe.unguided()
    program = sample_program(networks, recipe, setup.mesh, setup.batch_size, experiment.data.low_res_size)

    def arguments() -> tuple:
        batch, params = draw_batch(setup), {'diffusion': drawn_params(networks.unet)}
        if guided:
            params['classifier'] = drawn_params(networks.classifier)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, program.arguments)
        params = jax.device_put(params, shardings[0])
        numbers = traced(recipe, setup.batch_size)
        seed = np.uint32(experiment.sample.seed)
        request = Request(seed, batch['index'], batch['label'], numbers, batch['low_res'])
        carry = jitted(sampling.start, networks)(params, request)
        return jax.device_put((params, request, carry, np.int32(0), np.int32(STEPS)), shardings)

    return Case(program, arguments, steps=STEPS)


def matrix_case(setup: Setup) -> Case:
    """A product of two bfloat16 matrices, whose rate is the most that a network can reach."""
    size = 512 if jax.default_backend() == 'cpu' else 8192
    x = jax.ShapeDtypeStruct((size, size), jnp.bfloat16)
    program = Program(jax.jit(jnp.matmul), (x, x))
    return Case(program, lambda: 2 * (jax.random.normal(jax.random.key(0), x.shape, x.dtype),))


def cases(experiment: Experiment) -> dict[str, Callable[[Setup], Case]]:
    """The parts of a config; a case is made when its turn comes, so that one at a time is in memory."""
    parts = {
        'matrix': matrix_case,
        'forward': forward_case,
        'train': functools.partial(train_case, stage='train'),
        'sample_step': functools.partial(sample_case, guided=False),
    }
    if experiment.classifier is not None:
        parts['guided_step'] = functools.partial(sample_case, guided=True)
        if experiment.train_classifier is not None:
            parts['train_classifier'] = functools.partial(train_case, stage='train_classifier')
    return parts
