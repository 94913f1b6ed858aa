"""What devices exchange, read from a compiled program."""

import collections
import re

BYTES = {'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'pred': 1}
COLLECTIVE = re.compile(
    r'= (?P<types>\(.*?\)|\S+) '
    r'(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)'
    r'(?:-start)?\(.*?channel_id=(?P<channel>\d+)'
)


def exchanged(program: str) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Dtype and shape of every array that devices exchange, by the kind of exchange.

    An asynchronous operation appears several times in the program, under one channel. For TPUs a
    reduce-scatter is an all-reduce in a fusion of that name.

    program: the text of a `jax.stages.Compiled`.
    """
    found, seen, computation = collections.defaultdict(list), set(), ''
    for line in program.splitlines():
        if line.startswith(('%', 'ENTRY')):
            computation = line.split()[0]
        if not (match := COLLECTIVE.search(line)):
            continue
        types = re.sub(r'\{[^}]*\}', '', match['types'])  # without the layouts
        key = (types, match['kind'], match['channel'])
        kind = 'reduce-scatter' if 'all-reduce-scatter' in computation else match['kind']
        for dtype, sizes in () if key in seen else re.findall(r'(\w+)\[([\d,]*)\]', types):
            if dtype in BYTES:
                found[kind].append((dtype, tuple(int(size) for size in sizes.split(',') if size)))
        seen.add(key)
    return found
