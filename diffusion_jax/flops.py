"""The FLOPs of a program, counted from its jaxpr: the same number for every device and compiler."""

import math
from typing import Any


def count_flops(jaxpr: Any) -> float:
    """Two FLOPs for every multiply-add of a convolution or matrix product; other operations are not counted.

    Products with padding count, those with the zeros between dilated pixels do not. The body of a
    `lax.while_loop` counts once, of the branches of a `lax.cond` the largest. What a library computes in one
    call (cuDNN's attention) has no jaxpr and is not counted.

    jaxpr: such as `jax.make_jaxpr(f)(x)` or `jitted.trace(x).jaxpr`, with the shapes of all devices.
    """
    return sum(map(flops_of, getattr(jaxpr, 'jaxpr', jaxpr).eqns))


def flops_of(equation: Any) -> float:
    """`count_flops` of one equation."""
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
    if name == 'cond':
        return max(map(count_flops, params['branches']))
    inner = sum(
        count_flops(value) for value in params.values() if hasattr(getattr(value, 'jaxpr', value), 'eqns')
    )
    return params['length'] * inner if name == 'scan' else inner
