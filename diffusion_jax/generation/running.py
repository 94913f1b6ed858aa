"""Runs the sampler of a request in parts of a batch, so that progress is shown and the program is cached."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.transforms import to_float, to_uint8
from diffusion_jax.diffusion.process import Level, add_noise
from diffusion_jax.diffusion.samplers.loop import initial_noise
from diffusion_jax.generation import program, sampling
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Request
from diffusion_jax.models import Params
from diffusion_jax.report import Progress

MAX_PARTS = 50  # of a batch: progress is reported after each
Report = Callable[[int, int], None]  # (steps done, all steps)


def run(
    networks: Networks,
    params: dict[str, Params],
    request: Request,
    done: int,
    num_steps: int,
    report: Report | None,
) -> Any:
    """The last state of the sampler, from after `done` of its steps."""
    carry = program.begin(networks)(params, request)
    steps, request = program.steps(networks), request._replace(x_T=None)
    stride = -(-num_steps // MAX_PARTS)
    for first in range(done, num_steps, stride):
        until = min(first + stride, num_steps)
        following = steps(params, request, carry, np.int32(first), np.int32(until))
        jax.block_until_ready(carry)  # of the part before: the device has its next work already
        if report:
            report(first - done, num_steps - done)
        carry = following
    if report:
        jax.block_until_ready(carry)
        report(num_steps - done, num_steps - done)
    return carry[0]


@contextlib.contextmanager
def reporting(progress: bool | Report, num_images: int) -> Iterator[Report | None]:
    """What `run` calls: a function of the caller, or a progress line."""
    if progress is not True:
        yield progress or None
        return
    with Progress('sampling', num_images) as line:
        yield lambda done, total: line.within(done, total, num_images)
        line.update(num_images)


@jax.jit
def finish(x_0: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images, uint8 [B, H, W, C], and whether each was finite, bool [B]."""
    return to_uint8(x_0), jax.numpy.isfinite(x_0).all(axis=(1, 2, 3))


@jax.jit
def noised(images: jax.Array, request: Request, level: Level) -> jax.Array:
    """uint8 images at a noise level, with the noise of the request's seed."""
    keys = sampling.sample_keys(request.seed, request.index)
    return add_noise(to_float(images), initial_noise(keys, images.shape[1:]), level)
