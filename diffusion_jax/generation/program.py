"""Sampling and likelihood as programs on a mesh: functions that a Generator calls, and their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.generation import likelihood, options, sampling
from diffusion_jax.generation.likelihood import Judged
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Request
from diffusion_jax.images import Size
from diffusion_jax.models import Params
from diffusion_jax.program import Program
from diffusion_jax.sharding import abstract_on, batch_sharding, param_shardings, replicated


@functools.cache
def begin(networks: Networks) -> Callable[..., Any]:
    """`sampling.begin`, jitted: (params, request) → carry."""
    return jax.jit(functools.partial(sampling.begin, networks))


@functools.cache
def steps(networks: Networks) -> Callable[..., Any]:
    """`sampling.continue_from`, jitted: (params, request, carry, done, until) → carry."""
    return jax.jit(functools.partial(sampling.continue_from, networks))


@functools.cache
def bound(networks: Networks, respacing: str, clip_x_0: bool) -> Callable[..., Any]:
    """`likelihood.bound`, jitted: (params, judged) → its terms."""
    function = functools.partial(likelihood.bound, networks, respacing=respacing, clip_x_0=clip_x_0)
    return jax.jit(function)


def sample_program(
    networks: Networks, recipe: Recipe, mesh: Mesh, batch_size: int, low_res_size: Size | None = None
) -> Program:
    """Steps of a sampler on a mesh: `steps`, with the arguments of a request for `batch_size` images.

    `done` and `until` are traced: the program for one step is that for all. The devices of the mesh need not
    exist to compile it.

    Args:
        low_res_size: of the images that an upsampler enlarges.
    """
    networks = networks._replace(mesh=mesh)
    params = {'diffusion': _params(networks.unet, mesh)}
    if networks.classifier is not None:
        params['classifier'] = _params(networks.classifier, mesh)
    request = Request(
        seed=jax.ShapeDtypeStruct((), jnp.uint32),
        index=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        y=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        recipe=options.traced(recipe, batch_size),
        low_res=_images(networks, batch_size, low_res_size),
    )
    carry = jax.eval_shape(functools.partial(sampling.begin, networks), params, request)
    position = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    rows = functools.partial(_rows, mesh, batch_size)
    return Program(steps(networks), (params, rows(request), rows(carry), position, position))


def bound_program(
    networks: Networks,
    mesh: Mesh,
    batch_size: int,
    respacing: str = '',
    clip_x_0: bool = True,
    low_res_size: Size | None = None,
) -> Program:
    """The bound on the likelihood of `batch_size` images on a mesh: `bound`, with its arguments."""
    networks = Networks(networks.unet, networks.diffusion, mesh=mesh)
    judged = Judged(
        seed=jax.ShapeDtypeStruct((), jnp.uint32),
        index=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        images=_images(networks, batch_size, networks.unet.image_size),
        y=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        low_res=_images(networks, batch_size, low_res_size),
    )
    arguments = _params(networks.unet, mesh), _rows(mesh, batch_size, judged)
    return Program(bound(networks, respacing, clip_x_0), arguments)


def _params(network: models.UNetConfig | models.ClassifierConfig, mesh: Mesh) -> Params:
    shapes = models.param_shapes(network)
    return abstract_on(param_shardings(mesh, shapes), shapes)


def _images(networks: Networks, batch_size: int, size: Size | None) -> jax.ShapeDtypeStruct | None:
    if size is None:
        return None
    return jax.ShapeDtypeStruct((batch_size, *size, networks.unet.image_channels), jnp.uint8)


def _rows(mesh: Mesh, batch_size: int, tree: Any) -> Any:
    """Arrays [batch_size, …] are split over all devices, all others are replicated."""

    def lie(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = batch_sharding(mesh) if leaf.shape[:1] == (batch_size,) else replicated(mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(lie, tree)
