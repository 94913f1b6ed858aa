"""Time travel: a grid whose segments are repeated, with noise added between.

FreeDoM (2303.09833, Algorithm 2), universal guidance (2302.07121, Algorithm 1) and TFG (2409.15761) go back
after every step, `length` 1; longer segments give the network more steps to mend what guidance did. Noise is
added in one transition, from q(x_t|x_s), which has the law of adding it step by step. It costs `times` as
many evaluations as the grid.
"""

from __future__ import annotations

import jax
import numpy as np

from diffusion_jax.diffusion.process import Level


def travelled(levels: Level, length: int, times: int) -> Level:
    """The levels [M] of a run that takes every segment of the grid several times.

    Segments are counted from the noisiest level; the last one may be shorter. Within its repetitions, the
    level that ends a segment is followed by the one that starts it.

    Args:
      levels: [N + 1] on the host, the last one the clean image or any other end.
      length: steps in a segment.
      times: how often a segment is taken; 1 leaves the grid as it is.
    """
    steps = len(levels.t) - 1
    visited = [0]
    for first in range(0, steps, length):
        last = min(first + length, steps)
        visited += [*range(first + 1, last + 1), *([*range(first, last + 1)] * (times - 1))]
    return jax.tree.map(lambda values: values[np.array(visited)], levels)


def read_travel(argument: str) -> tuple[str, int, int]:
    """The grid, length and times of 'GRID,length,times'; ValueError if it is none."""
    grid, *numbers = argument.rsplit(',', 2)
    if len(numbers) != 2 or not all(number.strip().isdecimal() and int(number) for number in numbers):
        raise ValueError(
            f"{argument!r}; must be a grid, the steps of a segment and how often, as in '250,10,2'"
        )
    return grid.strip(), int(numbers[0]), int(numbers[1])
