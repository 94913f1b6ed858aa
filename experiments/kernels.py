"""Time the kernels of the networks, each alone and in all its variants.

    python experiments/kernels.py
    python experiments/kernels.py --kinds=norm,attention --scale=16 --repeats=5   # on a CPU: smaller batches

Each kind is a function of the networks with the shapes of ADM-64 (batch 64) and ADM-256 (batch 16), forward
(f) and forward with gradient (g): `ours` is what the networks use, the other variants are alternatives.
Prints median milliseconds, and a floor: the time that the bytes or the FLOPs of the forward pass need at the
rates of a copy and of a matrix product, measured on the device. Programs of a case are compiled in parallel;
an H100 takes less than 4 minutes.
"""

import argparse
import concurrent.futures
import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion_jax.models import UNetConfig
from diffusion_jax.models.attention import attend, attention_weights
from diffusion_jax.models.layers import OutputConv
from diffusion_jax.models.normalization import group_norm

Function = Callable[..., jax.Array]


class Case(NamedTuple):
    """A function of arrays in several variants; the fewest bytes and FLOPs of a call without gradient."""

    name: str
    variants: dict[str, Function]
    arguments: tuple[jax.Array, ...]
    bytes: float
    flops: float = 0


def normal(*shape: int, dtype: str = 'bfloat16') -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape, dtype)


def norm_cases(scale: int) -> Iterator[Case]:
    """GroupNorm, modulation and SiLU."""
    for dtype, shapes in NORMS.items():
        for batch, side, channels in shapes:
            batch = max(1, batch // scale)
            x = normal(batch, side, side, channels, dtype=dtype)
            coefficients = normal(batch, channels, dtype='float32'), normal(batch, channels, dtype='float32')
            variants = {
                'ours': lambda x, *coefficients: group_norm((x,), *coefficients, True, 32),
                'by autodiff': norm_by_autodiff,
                'flax': flax_norm,
            }
            yield Case(f'norm {dtype} {x.shape}', variants, (x, *coefficients), 3 * x.nbytes)


NORMS = {
    'bfloat16': ((64, 64, 192), (64, 32, 384), (16, 256, 256), (16, 128, 256), (16, 64, 512), (16, 16, 1024)),
    'float32': ((64, 64, 128),),
}


def norm_by_autodiff(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """One-pass statistics, scale and shift folded into two coefficients, and nothing else by hand."""
    x32, (batch, channels) = x.astype(jnp.float32), scale.shape

    def groups(x):
        return x.reshape(batch, 32, -1).mean(-1).repeat(channels // 32, -1)

    mean, square = groups(x32.mean((1, 2))), groups((x32**2).mean((1, 2)))
    a = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + 1e-5) * scale
    b = shift - mean * a
    return nnx.silu(x32 * a[:, None, None] + b[:, None, None]).astype(x.dtype)


def flax_norm(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    norm = nnx.GroupNorm(x.shape[-1], num_groups=32, epsilon=1e-5, rngs=nnx.Rngs(0))
    return nnx.silu(norm(x.astype(jnp.float32)) * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)


def attention_cases(scale: int) -> Iterator[Case]:
    """Self-attention of [B, tokens, heads, 64]."""
    for batch, tokens, heads in ((64, 1024, 6), (64, 256, 9), (64, 64, 12), (16, 1024, 8), (16, 256, 16)):
        q, k, v = (normal(max(1, batch // scale), tokens, heads, 64) for _ in range(3))

        def plain(q, k, v):
            return jnp.einsum('bhmn,bnhc->bmhc', attention_weights(q, k, 'default'), v)

        variants = {
            'ours': attend,
            'plain': plain,
            'by autodiff': attention_by_autodiff,
            'jax.nn': functools.partial(jax.nn.dot_product_attention, implementation='xla'),
        }
        flops = 4 * q.size * tokens
        yield Case(f'attention {q.shape}', variants, (q, k, v), 4 * q.nbytes, flops)


def attention_by_autodiff(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    scale = q.shape[-1] ** -0.25
    logits = jnp.einsum(
        'bmhc,bnhc->bhmn', q * scale, k * scale, precision='highest', preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum('bhmn,bnhc->bmhc', weights, v, precision='highest')


def last_conv_cases(scale: int) -> Iterator[Case]:
    """The 3x3 convolution to 6 channels, whose result is float32."""
    for batch, side, channels in ((64, 64, 192), (16, 256, 256)):
        x = normal(max(1, batch // scale), side, side, channels)
        kernel = normal(3, 3, channels, 6, dtype='float32') / math.sqrt(9 * channels)

        def conv(x, kernel, dtype, precision):
            numbers = ('NHWC', 'HWIO', 'NHWC')
            x, kernel = x.astype(dtype), kernel.astype(dtype)
            y = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers, precision=precision
            )
            return y.astype(jnp.float32)

        variants = {
            'ours': output_conv,
            'float32': functools.partial(conv, dtype='float32', precision='highest'),
            'tf32': functools.partial(conv, dtype='float32', precision='high'),
            'bfloat16': functools.partial(conv, dtype='bfloat16', precision=None),
        }
        bytes_ = x.nbytes + x.size // channels * 6 * 4
        yield Case(f'last conv {x.shape}', variants, (x, kernel), bytes_, 2 * x.size * 54)


def output_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    channels, outputs = kernel.shape[2:]
    conv = OutputConv(UNetConfig(out_channels=outputs, dtype=str(x.dtype)), channels)
    conv.kernel[...] = kernel
    return conv(x)


def skip_cases(scale: int) -> Iterator[Case]:
    """A decoder block's input: the concatenated skip, its norm, the first convolution and the 1x1 skip."""
    for batch, side, a, b in ((64, 64, 192, 192), (16, 256, 256, 256), (16, 64, 512, 512)):
        batch = max(1, batch // scale)
        h, skip = normal(batch, side, side, a), normal(batch, side, side, b)
        scale_, shift = normal(batch, a + b, dtype='float32'), normal(batch, a + b, dtype='float32')
        kernel, linear = normal(3, 3, a + b, a) / math.sqrt(9 * (a + b)), normal(a + b, a) / math.sqrt(a + b)

        def conv(x, kernel):
            numbers = ('NHWC', 'HWIO', 'NHWC')
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers
            )

        def concatenated(h, skip, scale, shift, kernel, linear, conv=conv):
            x = jnp.concatenate([h, skip], axis=-1)
            return conv(group_norm((x,), scale, shift, True, 32), kernel) + x @ linear

        def ours(h, skip, scale, shift, kernel, linear, conv=conv):
            first, second = jnp.split(linear, [h.shape[-1]])
            normed = group_norm((h, skip), scale, shift, True, 32)
            return conv(normed, kernel) + (h @ first + skip @ second)

        flops = 2 * h.size * (a + b) * 10
        bytes_ = 2 * (h.nbytes + skip.nbytes) + h.nbytes
        arguments = (h, skip, scale_, shift, kernel, linear)
        variants = {'ours': ours, 'concatenated': concatenated}
        yield Case(f'skip {h.shape} + {b}', variants, arguments, bytes_, flops)


KINDS = {'norm': norm_cases, 'attention': attention_cases, 'last conv': last_conv_cases, 'skip': skip_cases}


def programs(case: Case) -> dict[tuple[str, str], tuple[jax.stages.Lowered, tuple]]:
    """Every variant, forward and with gradient, and its arguments; the cotangent is one of them."""
    lowered = {}
    for name, function in case.variants.items():

        def gradient(g, *arguments, function=function):
            y, backward = jax.vjp(function, *arguments)
            return y, backward(g)

        shape = jax.eval_shape(function, *case.arguments)
        g = normal(*shape.shape, dtype=shape.dtype)
        lowered[name, 'f'] = jax.jit(function).lower(*case.arguments), case.arguments
        lowered[name, 'g'] = jax.jit(gradient).lower(g, *case.arguments), (g, *case.arguments)
    return lowered


def milliseconds(function: Callable, arguments: tuple, repeats: int) -> float:
    """The median of several times of 5 calls, which are dispatched together."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(5):
            result = function(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / 5)
    return 1000 * statistics.median(times)


def rates(repeats: int, scale: int) -> tuple[float, float]:
    """Bytes per second of a copy, and FLOP per second of a bfloat16 matrix product."""
    x = normal(2**29 // scale)
    copy = milliseconds(jax.jit(lambda x: x + 1), (x,), repeats)
    side = 8192 // scale
    a = normal(side, side)
    product = milliseconds(jax.jit(lambda a: a @ a), (a,), repeats)
    return 2000 * x.nbytes / copy, 2000 * side**3 / product


def row(case: Case, pool: concurrent.futures.Executor, repeats: int, floor: float) -> str:
    """A line of the table. Nothing is timed while anything compiles: autotuning uses the device too."""
    lowered = programs(case)
    compiled = pool.map(lambda program: program[0].compile(), lowered.values())
    columns = {'f': [], 'g': []}
    for (name, direction), function in zip(lowered, list(compiled), strict=True):
        ms = milliseconds(function, lowered[name, direction][1], repeats)
        columns[direction].append(f'{name} {ms:.3f}')
    return f'| {case.name} | {floor:.3f} | {" | ".join(", ".join(c) for c in columns.values())} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kinds', type=lambda text: text.split(','), default=list(KINDS))
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--scale', type=int, default=1, help='divides batches: 16 for a CPU')
    options = parser.parse_args()
    bandwidth, rate = rates(options.repeats, options.scale)
    print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}: ', end='')
    print(f'{bandwidth / 1e9:.0f} GB/s copied, {rate / 1e12:.1f} TFLOP/s\n')
    print('| case | floor, ms | f, ms | g, ms |\n|---|---|---|---|', flush=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for kind in options.kinds:
            for case in KINDS[kind](options.scale):
                floor = 1000 * max(case.bytes / bandwidth, case.flops / rate)
                print(row(case, pool, options.repeats, floor), flush=True)


if __name__ == '__main__':
    main()
