"""Our GroupNorm against flax's: milliseconds of the forward pass and of the gradient, and their difference.

python experiments/group_norm.py
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion_jax.models.layers import GroupNorm

SHAPES = ((250, 8, 8, 32), (250, 8, 8, 64), (64, 8, 8, 96), (4, 64, 64, 192), (2, 32, 32, 384))


def milliseconds(function: Callable, *arguments: jax.Array, repeats: int = 30) -> float:
    """Median time of a call, compilation not counted."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def compare(shape: tuple[int, ...]) -> str:
    """One row of the table."""
    rngs, channels = nnx.Rngs(0), shape[-1]
    theirs = nnx.GroupNorm(channels, num_groups=32, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
    ours = GroupNorm(channels, rngs)
    x, weight = jax.random.normal(jax.random.key(0), (2, *shape))
    times = []
    for norm in (theirs, ours):
        forward = jax.jit(lambda x, norm=norm: nnx.silu(norm(x)))
        gradient = jax.jit(jax.grad(lambda x, norm=norm: jnp.sum(weight * nnx.silu(norm(x)))))
        times.append((milliseconds(forward, x), milliseconds(gradient, x)))
    (a, b), (c, d) = times
    difference = float(jnp.abs(theirs(x) - ours(x)).max())
    return f'| {shape} | {a:.2f}, {b:.2f} | {c:.2f}, {d:.2f} | {a / c:.1f}, {b / d:.1f} | {difference:.1e} |'


def main() -> None:
    print(f'{jax.devices()[0].device_kind}, {platform.machine()}, jax {jax.__version__}')
    print('| shape | flax forward, gradient | ours forward, gradient | ratios | largest difference |')
    print('|---|---|---|---|---|')
    for shape in SHAPES:
        print(compare(shape))


if __name__ == '__main__':
    main()
