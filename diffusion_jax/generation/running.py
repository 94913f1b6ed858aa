"""Runs the sampler of a request in several calls, so that progress is shown and the program is cached."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from diffusion_jax.diffusion.process import Level, add_noise
from diffusion_jax.diffusion.samplers.loop import initial_noise
from diffusion_jax.errors import UserError
from diffusion_jax.generation import arguments, program, requests, sampling
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Request
from diffusion_jax.images import to_float, to_uint8
from diffusion_jax.models import Params
from diffusion_jax.report import Progress
from diffusion_jax.sharding import to_host

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator

MAX_PARTS = 50  # calls for one batch; progress is reported after each
Report = Callable[[int, int], None]  # (steps done, all steps)


def run(
    networks: Networks,
    params: dict[str, Params],
    request: Request,
    done: int,
    num_steps: int,
    report: Report | None,
) -> Any:
    """The last state of the sampler; the first `done` steps are skipped."""
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
    if not callable(progress) and not isinstance(progress, bool):
        raise UserError(f'progress is {progress!r}; give a bool, or a function of (steps done, all steps)')
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


def first_rows(num_images: int, rows: jax.Array | None) -> np.ndarray | None:
    """[B, …] on the host, without the padding."""
    return None if rows is None else to_host(rows)[:num_images]


def first_records(num_images: int, batch: int, records: Any) -> Any:
    """Records [N, …] on the host, without the padding where their second axis is that of the images."""

    def cut(array: jax.Array) -> np.ndarray:
        found = to_host(array)
        return found[:, :num_images] if found.shape[1:2] == (batch,) else found

    return jax.tree.map(cut, records)


def from_images(
    model: Generator, request: Request, levels: Level, num_images: int, images: Any, start: Any
) -> tuple[Request, int]:
    """The request that starts from noised images, and the number of steps that are skipped."""
    if images is None or start is None:
        raise UserError('images and start must be given together: the images, and the σ to start at')
    if request.x_T is not None:
        raise UserError('give either x_T, or images and start')
    start = arguments.real_number('start', start, 0)
    sigma = np.asarray(levels.edm_sigma)
    reached = sigma <= start * (1 + 1e-5)  # levels are float32
    if not reached.any():
        raise UserError(f'start is {start:g}; the lowest σ of these steps is {sigma[-1]:.3g}')
    done = int(np.argmax(reached))
    images = requests.full_images(model, 'images', images, num_images, np.uint8)
    level = Level(*(np.float32(values[done]) for values in levels))
    return request._replace(x_T=_noised(requests.put(model, images), request, level)), done


@jax.jit
def _noised(images: jax.Array, request: Request, level: Level) -> jax.Array:
    """uint8 images at a noise level, with the noise of the request's seed."""
    keys = sampling.sample_keys(request.seed, request.index)
    return add_noise(to_float(images), initial_noise(keys, images.shape[1:]), level)
