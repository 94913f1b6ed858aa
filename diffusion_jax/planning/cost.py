"""What a program costs, estimated from its jaxpr: FLOPs, memory traffic, and memory for intermediates.

Nothing is compiled, and the result is the same on every machine. The model of the compiler:

- Convolutions, matrix products, sorts and loops (kernels) read their operands from memory and write their
  results.
- Everything else is fused: it is computed from arrays in memory wherever it is needed. Its result is written
  only if a kernel reads it, if the program returns it, or if it combines several large arrays and is used
  more than once, as the sum of a residual connection is.
- Reductions read what they reduce; reductions of the same arrays share one pass.
- An array is held from the operation that writes it to the last one that reads it, in the jaxpr's order.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from diffusion_jax.flops import flops_of

CALLS = (
    'pjit jit closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr '
    'checkpoint remat remat2'
).split()
LOOPS = ('scan', 'while', 'cond')
# Prefixes of the names of primitives; dot_product_attention is cuDNN's.
KERNELS = ('conv_general_dilated', 'dot_general', 'dot_product_attention', 'sort', 'pallas_call', *LOOPS)
REDUCTIONS = ('reduce_', 'arg', 'cum')
LITERAL = 0  # the number of all literals


class Cost(NamedTuple):
    """Of one call of a program on one device.

    Attributes:
        flops: of convolutions and matrix products, by 'bfloat16' or by 'float32' with its precision, such as
            'float32 highest'.
        num_bytes: read from and written to memory.
        temporaries: peak bytes of intermediates, without arguments and results.
    """

    flops: collections.Counter[str]
    num_bytes: float
    temporaries: int


@dataclasses.dataclass
class _Step:
    """An equation that is no call, with its arrays by number; of those in memory what it reads and writes."""

    equation: Any
    operands: tuple[int, ...]
    results: tuple[int, ...]
    reads: frozenset[int] = frozenset()
    writes: frozenset[int] = frozenset()

    def is_a(self, prefixes: tuple[str, ...]) -> bool:
        return self.equation.primitive.name.startswith(prefixes)


def estimate(jaxpr: Any, loops_once: bool = False, fused_attention: bool = False) -> Cost:
    """The cost of a jaxpr, such as `jax.make_jaxpr(function)(*arguments).jaxpr`, on one device.

    Args:
        loops_once: count the body of a `lax.scan` once, as XLA does. The body of a `lax.while_loop` always
            counts once; of the branches of a `lax.cond` the one with the most traffic counts.
        fused_attention: the attention weights in bfloat16 are never in memory, as in cuDNN's kernel.
    """
    program = _Program(jaxpr, fused_attention)
    flops: collections.Counter[str] = collections.Counter()
    num_bytes: float = program.moved()
    inside: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        if step.is_a(LOOPS):
            params = step.equation.params
            bodies = params.get('branches') or [params.get('jaxpr') or params['body_jaxpr']]
            times = 1 if loops_once else params.get('length', 1)
            costs = [estimate(body.jaxpr, loops_once, fused_attention) for body in bodies]
            body = max(costs, key=lambda cost: cost.num_bytes)
            flops.update({kind: times * number for kind, number in body.flops.items()})
            num_bytes += times * body.num_bytes
            inside[index] = body.temporaries
        elif number := flops_of(step.equation):
            flops.update({_rate(step.equation): number})
    return Cost(flops, num_bytes, program.temporaries(inside))


class _Program:
    """A jaxpr without calls.

    Attributes:
        steps: the equations whose results are used.
        shapes: the number of elements of every array, and the bytes of one element.
        weights: the shapes of attention weights, which are nowhere in memory.
        returned: the arrays that the program returns.
    """

    def __init__(self, jaxpr: Any, fused_attention: bool) -> None:
        self.fused_attention = fused_attention
        self.weights: set[tuple[int, ...]] = set()
        self.shapes, self.steps = [(0, 0)], list[_Step]()
        inputs = [self._new(var) for var in (*jaxpr.constvars, *jaxpr.invars)]
        self.returned = set(self._inline(jaxpr, inputs))
        self._place(inputs, self._remove_unused())

    def _new(self, var: Any) -> int:
        elements = 0 if var.aval.shape in self.weights else math.prod(var.aval.shape)
        self.shapes.append((elements, var.aval.dtype.itemsize))
        return len(self.shapes) - 1

    def _size(self, array: int) -> int:
        return math.prod(self.shapes[array])

    def _inline(self, jaxpr: Any, inputs: Sequence[int]) -> list[int]:
        """Appends the steps of a jaxpr and of those it calls; the numbers of its results."""
        names = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))

        def numbers(variables: Sequence[Any]) -> Iterator[int]:
            return (LITERAL if hasattr(var, 'val') else names[var] for var in variables)

        for equation in jaxpr.eqns:
            operands = tuple(numbers(equation.invars))
            if equation.primitive.name == 'optimization_barrier':
                results = operands
            elif equation.primitive.name in CALLS:
                inner = next(p for p in equation.params.values() if hasattr(p, 'eqns'))
                inner = getattr(inner, 'jaxpr', inner)
                results = tuple(self._inline(inner, [*map(self._new, inner.constvars), *operands]))
            else:
                if self.fused_attention and _is_of_heads(equation):
                    arrays = [var.aval for var in (*equation.invars, *equation.outvars)]
                    self.weights.add(max(arrays, key=lambda array: array.size).shape)
                results = tuple(map(self._new, equation.outvars))
                self.steps.append(_Step(equation, operands, results))
            names |= zip(equation.outvars, results, strict=True)
        return list(numbers(jaxpr.outvars))

    def _remove_unused(self) -> collections.Counter[int]:
        """Removes steps whose results are not used; the number of uses of each array."""
        uses, kept = collections.Counter(self.returned), []
        for step in reversed(self.steps):
            if any(uses[result] for result in step.results):
                uses.update(set(step.operands))
                kept.append(step)
        self.steps = kept[::-1]
        return uses

    def _place(self, inputs: Sequence[int], uses: collections.Counter[int]) -> None:
        """Decides which arrays are in memory, and so what each step reads and writes."""
        needed = {array for step in self.steps if step.is_a(KERNELS) for array in step.operands}
        needed |= self.returned
        # For each array, the arrays in memory that it is computed from: itself alone if it is written.
        sources: dict[int, frozenset[int]] = {LITERAL: frozenset()}
        sources |= {array: frozenset([array]) for array in inputs}
        for step in self.steps:
            found = frozenset[int]().union(
                *(sources.setdefault(array, frozenset()) for array in step.operands)
            )
            for result in step.results:
                combined = sum(2 * self._size(source) >= self._size(result) for source in found) > 1
                written = result in needed or step.is_a(KERNELS + REDUCTIONS)
                written = written or (combined and uses[result] > 1)
                sources[result] = frozenset([result]) if written else found
            step.writes = frozenset(
                result for result in step.results if sources[result] == frozenset([result])
            )
            step.reads = found if step.writes else frozenset()

    def moved(self) -> int:
        """Bytes read and written outside of loops."""
        num_bytes, done = 0, set[tuple[Any, int]]()
        for index, step in enumerate(self.steps):
            if step.is_a(LOOPS):
                continue
            elements = max(self.shapes[array][0] for array in (*step.operands, *step.results))
            if step.is_a(KERNELS):
                shared: Any = index
            else:  # one pass for all results that the program returns, and for reductions of the same arrays
                shared = None if self.returned.issuperset(step.results) else step.reads
            reads = {(shared, source) for source in step.reads}
            for _, source in reads - done:
                size, itemsize = self.shapes[source]
                num_bytes += min(size, elements) * itemsize  # of a slice only what is used
            done |= reads
            num_bytes += sum(map(self._size, step.writes))
        return num_bytes

    def temporaries(self, inside: dict[int, int]) -> int:
        """Peak bytes of intermediates; `inside`: those of the bodies of loops, by step."""
        last = {source: index for index, step in enumerate(self.steps) for source in step.reads}
        changes: collections.Counter[int] = collections.Counter()
        for index, step in enumerate(self.steps):
            for result in step.writes - self.returned:
                changes[index] += self._size(result)
                changes[last.get(result, index) + 1] -= self._size(result)
        held = peak = 0
        for index in range(len(self.steps)):
            held += changes[index]
            peak = max(peak, held + inside.get(index, 0))
        return peak


def _is_of_heads(equation: Any) -> bool:
    """Whether it is a product in bfloat16 for every image and every head of attention."""
    if equation.primitive.name != 'dot_general' or equation.invars[0].aval.dtype != 'bfloat16':
        return False
    _, (batch, _) = equation.params['dimension_numbers']
    return len(batch) == 2


def _rate(equation: Any) -> str:
    """How a product is computed, as in `Cost.flops`."""
    kind = str(equation.invars[0].aval.dtype)
    precision = equation.params.get('precision')
    precision = precision[0] if isinstance(precision, tuple) else precision
    return f'{kind} {precision or "default"}'.lower() if kind == 'float32' else kind
