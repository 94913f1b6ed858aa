"""What devices exchange, read from a compiled program."""

from __future__ import annotations

import collections
import math
import re

BYTES = {'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'pred': 1}
COLLECTIVE = re.compile(
    r'= (?P<types>\(.*?\)|\S+) '
    r'(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)'
    r'(?:-start)?\(.*?channel_id=(?P<channel>\d+)'
)

Array = tuple[str, tuple[int, ...]]


def exchanged(program: str) -> dict[str, list[Array]]:
    """Dtype and shape of every array that devices exchange, by the kind of exchange.

    An operation that runs beside others is written into the program several times, under one channel. A sum
    of which each device keeps a part is a reduce-scatter: for TPUs an all-reduce in a fusion of that name.

    Args:
        program: the text of a `jax.stages.Compiled`.
    """
    found, seen, inside = collections.defaultdict(list), set(), ''
    for line in program.splitlines():
        if line.startswith(('%', 'ENTRY')):
            inside = line.split()[0]
        match = COLLECTIVE.search(line)
        if not match:
            continue
        types = re.sub(r'\{[^}]*\}', '', match['types'])  # without the layouts
        if (types, match['kind'], match['channel']) in seen:
            continue
        seen.add((types, match['kind'], match['channel']))
        kind = 'reduce-scatter' if 'all-reduce-scatter' in inside else match['kind']
        for dtype, sizes in re.findall(r'(\w+)\[([\d,]*)\]', types):
            if dtype in BYTES:
                found[kind].append((dtype, tuple(int(size) for size in sizes.split(',') if size)))
    return found


def num_bytes(array: Array) -> int:
    dtype, shape = array
    return BYTES[dtype] * math.prod(shape)
