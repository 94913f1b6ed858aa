"""The programs that are timed: each part of a config, with random parameters and images."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax import main as program
from diffusion_jax import models
from diffusion_jax.config import read_without_images
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation import sampling
from diffusion_jax.generation.arguments import traced
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.program import jitted, sample_program
from diffusion_jax.generation.sampling import Request
from diffusion_jax.images import to_float
from diffusion_jax.program import Program
from diffusion_jax.sharding import batch_sharding, replicated
from diffusion_jax.training.objectives import classifier_objective, diffusion_objective
from diffusion_jax.training.program import first_state, train_program
from diffusion_jax.training.step import make_train_step

Batch = dict[str, jax.Array | None]

STEPS = 5  # of a call: as many as the generator makes of a recipe with 250 steps
NUM_DRAWN = 1_000_003  # random numbers that are drawn; larger kernels repeat them


class Setup(NamedTuple):
    experiment: Experiment
    mesh: jax.sharding.Mesh
    batch_size: int


class Case(NamedTuple):
    """A program and its arguments.

    Attributes:
        function: for a single device; its FLOPs are counted.
        program: what is compiled and called; compiling it needs no arguments on the device.
        arguments: makes them, on the devices.
        consumes: the first argument is a state that is used up, and the first result the next one.
        steps: of a call; its time is divided by them.
    """

    function: Callable
    program: Program
    arguments: Callable[[], tuple]
    consumes: bool = False
    steps: int = 1


def read(config: str, settings: Sequence[str]) -> Experiment:
    """The experiment of a config file, with settings of the command line; UserError where it is none."""
    return read_without_images(program.parse_flags(['benchmark', f'--config={config}', *settings]).config)


def drawn_params(network: models.UNetConfig | models.ClassifierConfig) -> models.Params:
    """NumPy parameters: kernels from N(0, 1/fan-in), scales 1, biases 0.

    They are sampled on the host, since `models.init` takes long to compile for a large network. No kernel is
    0, as some are after `init`: nothing shall be cheaper than in a trained network.
    """
    numbers = np.random.default_rng(0).standard_normal(NUM_DRAWN, np.float32)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim > 1:
            return np.resize(numbers, leaf.shape) / np.float32(math.prod(leaf.shape[:-1]) ** 0.5)
        return np.full(leaf.shape, path[-1].key == 'scale', np.float32)

    return jax.tree_util.tree_map_with_path(draw, models.param_shapes(network))


def draw_batch(setup: Setup) -> Batch:
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
    unet = setup.experiment.unet

    def forward(params: models.Params, batch: Batch) -> jax.Array:
        low_res = None if batch['low_res'] is None else to_float(batch['low_res'])
        t = batch['index']  # any will do
        return models.apply(unet, params, to_float(batch['image']), t, batch['label'], low_res=low_res)

    batch = draw_batch(setup)
    abstract = _abstract(models.param_shapes(unet), replicated(setup.mesh)), jax.tree.map(_described, batch)
    return Case(
        forward,
        Program(jax.jit(forward), abstract),
        lambda: (jax.device_put(drawn_params(unet), replicated(setup.mesh)), batch),
    )


def train_case(setup: Setup, *, classifier: bool = False) -> Case:
    experiment, process = setup.experiment, setup.experiment.diffusion
    if classifier:
        network, config = experiment.classifier, experiment.train_classifier
        objective = classifier_objective(network, process)
    else:
        network, config = experiment.unet, experiment.train
        objective = diffusion_objective(network, process, experiment.data.low_res_size)
    config = dataclasses.replace(config, batch_size=setup.batch_size, microbatches=1)
    compiled = train_program(objective, network, config, setup.mesh)

    def arguments() -> tuple:
        state, batch = compiled.arguments
        key = jax.random.key(experiment.seed)
        state = first_state(objective, network, config, state, key, drawn_params(network))
        drawn = draw_batch(setup)
        return state, {name: drawn[name] for name in batch}

    return Case(make_train_step(objective, config), compiled, arguments, consumes=True)


def sample_case(setup: Setup, *, guided: bool = False) -> Case:
    experiment = setup.experiment
    networks = Networks(experiment.unet, experiment.diffusion, experiment.classifier if guided else None)
    recipe = experiment.sample.as_recipe()
    recipe = recipe if guided else recipe.unguided()
    low_res_size = experiment.data.low_res_size
    step = sample_program(networks, recipe, setup.mesh, setup.batch_size, low_res_size)

    def arguments() -> tuple:
        batch = draw_batch(setup)
        params = {'diffusion': drawn_params(networks.unet)}
        if guided:
            params['classifier'] = drawn_params(networks.classifier)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, step.arguments)
        params = jax.device_put(params, shardings[0])
        numbers = traced(recipe, setup.batch_size)
        seed = np.uint32(experiment.sample.seed)
        request = Request(seed, batch['index'], batch['label'], numbers, batch['low_res'])
        carry = jitted(sampling.start, networks)(params, request)
        return jax.device_put((params, request, carry, np.int32(0), np.int32(STEPS)), shardings)

    return Case(functools.partial(sampling.advance, networks), step, arguments, steps=STEPS)


def cases(experiment: Experiment) -> dict[str, Callable[[Setup], Case]]:
    """The parts that a config has; each is made when its turn comes, to hold the arguments of one only."""
    parts = {'forward': forward_case, 'train': train_case, 'sample_step': sample_case}
    if experiment.classifier is not None:
        parts['guided_step'] = functools.partial(sample_case, guided=True)
        if experiment.train_classifier is not None:
            parts['train_classifier'] = functools.partial(train_case, classifier=True)
    return parts


def with_networks(experiment: Experiment, **changes: object) -> Experiment:
    """The experiment with settings of both its networks changed, such as dtype='bfloat16'."""
    unet = dataclasses.replace(experiment.unet, **changes)
    classifier = experiment.classifier and dataclasses.replace(experiment.classifier, **changes)
    return dataclasses.replace(experiment, unet=unet, classifier=classifier)


def _abstract(shapes: models.Params, sharding: jax.sharding.Sharding) -> models.Params:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _described(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
