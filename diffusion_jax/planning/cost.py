"""What a program costs, estimated from its jaxpr: FLOPs, bytes that it moves, and memory for intermediates.

Nothing is compiled, and the result is the same on every machine. The compiler is modelled in a few lines:

- Convolutions, matrix products, sorts and loops read their operands from memory and write their results.
- Everything else is fused: it is computed from arrays in memory wherever it is needed. Its result is written
  only if one of the former reads it, if the program returns it, or if it combines several large arrays and
  is used more than once, as the sum of a residual connection is.
- Reductions read what they reduce; reductions of the same arrays share one pass.
- An array is held from the operation that writes it to the last one that reads it, in the jaxpr's order.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffusion_jax.flops import flops_of

CALLS = (
    'pjit jit closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr '
    'checkpoint remat remat2'
).split()
LOOPS = ('scan', 'while', 'cond')
# What the names of these begin with; dot_product_attention is cuDNN's.
KERNELS = ('conv_general_dilated', 'dot_general', 'dot_product_attention', 'sort', 'pallas_call', *LOOPS)
REDUCTIONS = ('reduce_', 'arg', 'cum')


class Cost(NamedTuple):
    """Of one call of a program on one device.

    Attributes:
        flops: of convolutions and matrix products, by how they are computed: 'bfloat16', or 'float32' with
            the precision, such as 'float32 highest'.
        num_bytes: read from and written to memory.
        temporaries: the most bytes held at a time besides arguments and results.
    """

    flops: collections.Counter[str]
    num_bytes: float
    temporaries: int


class _Step(NamedTuple):
    """An equation that is no call; arrays are numbered, None is a literal."""

    equation: Any
    operands: tuple[int | None, ...]
    results: tuple[int, ...]


def estimate(jaxpr: Any, loops_once: bool = False, fused_attention: bool = False) -> Cost:
    """The cost of a jaxpr, such as `jax.make_jaxpr(function)(*arguments).jaxpr`, on one device.

    Args:
        loops_once: the body of a `lax.scan` is counted once, as XLA counts it. That of a `lax.while_loop`
            always is.
        fused_attention: the weights of attention in bfloat16 are never in memory, as in cuDNN's kernel.
    """
    return _Program(jaxpr, fused_attention).cost(loops_once)


class _Program:
    """A jaxpr without calls, and which of its arrays are in memory.

    Attributes:
        weights: the shapes of the weights of attention, which are nowhere in memory.
        shapes: of every array its number of elements and the bytes of one.
        steps: those whose results are used.
        sources: of every array those in memory that it is computed from; its own number if it is written.
    """

    def __init__(self, jaxpr: Any, fused_attention: bool) -> None:
        self.fused_attention, self.weights = fused_attention, set()
        self.shapes: list[tuple[int, int]] = []
        self.steps: list[_Step] = []
        inputs = [self._new(var) for var in (*jaxpr.constvars, *jaxpr.invars)]
        self.results = {result for result in self._inline(jaxpr, inputs) if result is not None}
        self.sources: dict[int | None, frozenset[int]] = {None: frozenset()}
        self.sources |= {array: frozenset([array]) for array in inputs}
        self.uses = self._count_uses()
        self._find_sources()

    def _new(self, var: Any) -> int:
        elements = 0 if var.aval.shape in self.weights else math.prod(var.aval.shape)
        self.shapes.append((elements, var.aval.dtype.itemsize))
        return len(self.shapes) - 1

    def _inline(self, jaxpr: Any, inputs: Sequence[int | None]) -> list[int | None]:
        names = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))
        for equation in jaxpr.eqns:
            operands = tuple(None if hasattr(var, 'val') else names[var] for var in equation.invars)
            if equation.primitive.name == 'optimization_barrier':
                results = operands
            elif equation.primitive.name in CALLS:
                inner = next(p for p in equation.params.values() if hasattr(p, 'eqns'))
                constants = [self._new(var) for var in getattr(inner, 'jaxpr', inner).constvars]
                results = self._inline(getattr(inner, 'jaxpr', inner), [*constants, *operands])
            else:
                if self.fused_attention and _is_of_heads(equation):
                    arrays = [var.aval for var in (*equation.invars, *equation.outvars)]
                    self.weights.add(max(arrays, key=lambda array: array.size).shape)
                results = tuple(map(self._new, equation.outvars))
                self.steps.append(_Step(equation, operands, results))
            names |= zip(equation.outvars, results, strict=True)
        return [None if hasattr(var, 'val') else names[var] for var in jaxpr.outvars]

    def _count_uses(self) -> collections.Counter[int]:
        """How many steps use each array; steps without use are removed."""
        uses, kept = collections.Counter(self.results), []
        for step in reversed(self.steps):
            if any(uses[result] for result in step.results):
                uses.update(set(step.operands) - {None})
                kept.append(step)
        self.steps = kept[::-1]
        return uses

    def _find_sources(self) -> None:
        read = {array for step in self.steps if _is(step, KERNELS) for array in step.operands}
        for step in self.steps:
            sources = frozenset().union(*(self.sources.setdefault(a, frozenset()) for a in step.operands))
            for result in step.results:
                size = self._size(result)
                combined = sum(2 * self._size(source) >= size for source in sources) > 1
                written = (
                    _is(step, KERNELS + REDUCTIONS)
                    or result in read
                    or result in self.results
                    or (combined and self.uses[result] > 1)
                )
                self.sources[result] = frozenset([result]) if written else sources

    def _size(self, array: int) -> int:
        return math.prod(self.shapes[array])

    def _written_by(self, step: _Step) -> list[int]:
        return [result for result in step.results if self.sources[result] == {result}]

    def _read_by(self, step: _Step) -> frozenset[int]:
        """The arrays in memory that a step reads; none if it is computed where its results are needed."""
        if not self._written_by(step):
            return frozenset()
        return frozenset().union(*(self.sources[operand] for operand in step.operands))

    def cost(self, loops_once: bool) -> Cost:
        flops: collections.Counter[str] = collections.Counter()
        num_bytes, inside = self._moved(), {}
        for index, step in enumerate(self.steps):
            flops.update(_flops(step.equation))
            if _is(step, LOOPS):
                body, times = _loop_cost(step.equation, loops_once, self.fused_attention)
                flops.update({kind: times * number for kind, number in body.flops.items()})
                num_bytes += times * body.num_bytes
                inside[index] = body.temporaries
        return Cost(flops, num_bytes, self._temporaries(inside))

    def _moved(self) -> int:
        """Bytes read and written outside of loops."""
        num_bytes, done = 0, set()
        for index, step in enumerate(self.steps):
            if _is(step, LOOPS):
                continue
            arrays = [array for array in (*step.operands, *step.results) if array is not None]
            elements = max(self.shapes[array][0] for array in arrays)
            sources = self._read_by(step)
            if _is(step, KERNELS):
                reads = {(index, source) for source in sources}
            elif self.results.issuperset(step.results):  # one pass makes all that the program returns
                reads = {(None, source) for source in sources}
            else:
                reads = {(sources, source) for source in sources}
            for _, source in reads - done:
                size, itemsize = self.shapes[source]
                num_bytes += min(size, elements) * itemsize  # no more than the slice that is used
            done |= reads
            num_bytes += sum(map(self._size, self._written_by(step)))
        return num_bytes

    def _temporaries(self, inside: dict[int, int]) -> int:
        last = {source: index for index, step in enumerate(self.steps) for source in self._read_by(step)}
        ends = collections.defaultdict(list)
        held = most = 0
        for index, step in enumerate(self.steps):
            for result in self._written_by(step):
                if result not in self.results:
                    held += self._size(result)
                    ends[last.get(result, index)].append(self._size(result))
            most = max(most, held + inside.get(index, 0))
            held -= sum(ends.pop(index, []))
        return most


def _is(step: _Step, beginnings: tuple[str, ...]) -> bool:
    return step.equation.primitive.name.startswith(beginnings)


def _is_of_heads(equation: Any) -> bool:
    """Whether it is a product in bfloat16 for every image and every head of attention."""
    if equation.primitive.name != 'dot_general' or equation.invars[0].aval.dtype != 'bfloat16':
        return False
    _, (batch, _) = equation.params['dimension_numbers']
    return len(batch) == 2


def _loop_cost(equation: Any, loops_once: bool, fused_attention: bool) -> tuple[Cost, int]:
    """The cost of the body, and how often it is counted; of several branches that which moves most."""
    params = equation.params
    if equation.primitive.name == 'cond':
        bodies, times = params['branches'], 1
    elif equation.primitive.name == 'while':
        bodies, times = [params['body_jaxpr']], 1
    else:
        bodies, times = [params['jaxpr']], 1 if loops_once else params['length']
    costs = [estimate(body.jaxpr, loops_once, fused_attention) for body in bodies]
    return max(costs, key=lambda cost: cost.num_bytes), times


def _flops(equation: Any) -> collections.Counter[str]:
    """By how the products are computed; those of loops are counted with their bodies."""
    if equation.primitive.name in LOOPS or not (number := flops_of(equation)):
        return collections.Counter()
    kind = str(equation.invars[0].aval.dtype)
    if kind == 'float32':
        precision = equation.params.get('precision')
        precision = precision[0] if isinstance(precision, tuple) else precision
        kind += f' {"default" if precision is None else str(precision).lower()}'
    return collections.Counter({kind: number})
