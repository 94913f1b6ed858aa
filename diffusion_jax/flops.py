"""The arithmetic of a program, counted from its jaxpr: the same number for every device and compiler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax


def count_flops(jaxpr: Any) -> float:
    """Two for every product of a convolution or matrix product; other operations are not counted.

    Products with padding count, those with the zeros between dilated pixels do not. Of a `lax.while_loop` the
    body counts once, of branches the largest. What a library computes in one call (cuDNN's attention) has no
    jaxpr and is not counted.

    Args:
        jaxpr: such as `jax.make_jaxpr(f)(x)` or `jitted.trace(x).jaxpr`, with the shapes of all devices.
    """
    return sum(map(flops_of, getattr(jaxpr, 'jaxpr', jaxpr).eqns))


def flops_of(equation: Any) -> float:
    """The same of one equation."""
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        left = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == 'conv_general_dilated':
        kernel = equation.invars[1].aval.shape
        features = kernel[params['dimension_numbers'].rhs_spec[0]]
        window = math.prod(kernel) / features / math.prod(params['lhs_dilation'])
        return 2.0 * equation.outvars[0].aval.size * window
    inner = [count_flops(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == 'cond':
        return max(inner)
    times = params['length'] if name == 'scan' else 1
    if name == 'pallas_call':
        times = math.prod(params['grid_mapping'].grid)
    return times * sum(inner)


def _jaxprs(value: Any) -> Iterator[jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr]:
    """The jaxprs in a parameter of an equation."""
    for each in value if isinstance(value, (tuple, list)) else (value,):
        if hasattr(getattr(each, 'jaxpr', each), 'eqns'):
            yield each
