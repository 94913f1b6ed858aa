"""The functions of `sampling` as compiled programs on a mesh."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import SMC
from diffusion_jax.generation import sampling
from diffusion_jax.generation.arguments import traced
from diffusion_jax.generation.guides import with_class_weights
from diffusion_jax.generation.networks import WEAK, Networks
from diffusion_jax.generation.sampling import Request
from diffusion_jax.images import Size
from diffusion_jax.models import Params
from diffusion_jax.program import Program
from diffusion_jax.report import Progress
from diffusion_jax.sharding import abstract_on, batch_sharding, param_shardings, replicated, to_host

MAX_PARTS = 50  # calls for one batch; progress is reported after each
Report = Callable[[int, int], None]  # (steps done, number of steps)


@functools.cache
def jitted(function: Callable[..., Any], *static: Any, **options: Any) -> jax.stages.Wrapped:
    """`function`, jitted, with its first arguments and keywords fixed; one object for the same of them."""
    return jax.jit(functools.partial(function, *static, **options))


def run(
    networks: Networks,
    params: dict[str, Params],
    request: Request,
    done: int,
    num_steps: int,
    report: Report | None,
) -> Any:
    """The last state of the sampler; the first `done` steps are skipped.

    The steps are computed in several calls of one program, which can report progress, be interrupted, and be
    kept in the compilation cache. (Programs that call back to the host are not kept there.)
    """
    carry = jitted(sampling.start, networks)(params, request)
    advance, request = jitted(sampling.advance, networks), request._replace(x_T=None)
    stops = [*range(done, num_steps, -(-num_steps // MAX_PARTS)), num_steps]
    positions = jax.device_put(list(map(np.int32, stops)), request.seed.sharding)
    for i, (first, until) in enumerate(itertools.pairwise(positions)):
        following = advance(params, request, carry, first, until)
        jax.block_until_ready(carry)  # of the part before: the device has its next work already
        if report:
            report(stops[i] - done, num_steps - done)
        carry = following
    if report:
        jax.block_until_ready(carry)
        report(num_steps - done, num_steps - done)
    return carry[0]


@contextlib.contextmanager
def reporting(progress: bool | Report, num_images: int) -> Iterator[Report | None]:
    """The `report` of `run`: a function of the caller, or a progress line."""
    if progress is not True:
        yield progress or None
        return
    with Progress('sampling', num_images) as line:
        yield lambda done, total: line.within(done, total, num_images)
        line.update(num_images)


def to_rows(num_images: int, tree: Any, batch: int | None = None) -> Any:
    """Arrays on the host, without the padding.

    batch: the padded number of images: then arrays are records [N, …], cut if their second axis is that long.
    """

    def cut(array: jax.Array) -> np.ndarray:
        rows = to_host(array)
        if batch is None:
            return rows[:num_images]
        return rows[:, :num_images] if rows.shape[1:2] == (batch,) else rows

    return jax.tree.map(cut, tree)


def sample_program(
    networks: Networks, recipe: Recipe, mesh: Mesh, batch_size: int, low_res_size: Size | None = None
) -> Program:
    """Steps of a sampler for `batch_size` images on a mesh, whose devices need not exist.

    Their number is an argument: the program for one step is that for all.

    Args:
        low_res_size: of the images that an upsampler enlarges.
    """
    networks = networks._replace(mesh=mesh)
    params = {'diffusion': _params(networks.unet, mesh)}
    if networks.classifier is not None:
        params['classifier'] = _params(networks.classifier, mesh)
    if (weak := networks.weak) is not None:
        networks = networks._replace(weak=weak._replace(mesh=mesh))
        params[WEAK] = _params(weak.unet, mesh)
    row = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    low_res = None
    if low_res_size is not None:
        shape = batch_size, *low_res_size, networks.unet.image_channels
        low_res = jax.ShapeDtypeStruct(shape, jnp.uint8)
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    recipe = traced(with_class_weights(recipe, batch_size, networks.classifier), batch_size)
    if isinstance(recipe.sampler, SMC):  # smaller populations, if a batch that is tried has no complete ones
        fitting = math.gcd(recipe.sampler.particles, batch_size)
        recipe = dataclasses.replace(recipe, sampler=dataclasses.replace(recipe.sampler, particles=fitting))
    request = Request(seed, row, row, recipe, low_res)
    carry = jax.eval_shape(functools.partial(sampling.start, networks), params, request)
    position = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = batch_sharding(mesh) if leaf.shape[:1] == (batch_size,) else replicated(mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    request, carry = jax.tree.map(placed, (request, carry))
    return Program(jitted(sampling.advance, networks), (params, request, carry, position, position))


def _params(network: models.UNetConfig | models.ClassifierConfig, mesh: Mesh) -> Params:
    shapes = models.param_shapes(network)
    return abstract_on(param_shardings(mesh, shapes), shapes)
