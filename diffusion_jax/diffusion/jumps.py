"""Grids that also go up: noise is added on the way, and the sampler starts again from there.

    restart:GRID/low,high,steps,times/…

Restart (2306.14878): from the level with σ next to `low`, noise is added up to `high` and removed in `steps`
steps as of karras, `times` times. Its code counts levels, one more than steps.

    repaint:GRID/length,times

RePaint (2201.09865), appendix B: from every length-th level, noise is added, one level at a time, up to
`length` levels higher, so that each stretch is taken `times` times.

    travel:GRID/length,times

Time travel: every segment of `length` steps is taken `times` times, and noise is added in one transition.
FreeDoM (2303.09833, Algorithm 2), universal guidance (2302.07121, Algorithm 1) and TFG (2409.15761) have
length 1.

RePaint counts its levels from the clean end and leaves the noisiest stretch out; time travel counts from the
noisy end and includes the step to the clean image.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.schedules import karras, with_clean

# The numbers of one text between slashes; σ = sigma/alpha in float64 → levels.
Numbers = Sequence[float]
At = Callable[[np.ndarray], Level]


def restart(levels: Level, arguments: Sequence[Numbers], at: At) -> Level:
    """The levels with restarts; each argument is an interval (low, high, steps, times)."""
    sigmas = levels.sigma / levels.alpha
    least, most = sigmas[-1] * (1 - 1e-3), sigmas[0] * (1 + 1e-3)
    for interval in arguments:
        complete = len(interval) == 4 and _are_counts(interval[2:])
        if not complete or not least <= interval[0] < interval[1] <= most:
            limits = f'{sigmas[-1]:.4g} ≤ low < high ≤ {sigmas[0]:.4g}'
            raise ValueError(f'{_text(interval)}; must be low,high,steps,times with {limits}')
    return with_clean(at(restarted(sigmas, arguments)))


def restarted(sigmas: np.ndarray, intervals: Sequence[Numbers]) -> np.ndarray:
    """The σ of a grid with restarts."""
    path: list[float] = []
    starts = [int(np.argmin(np.abs(sigmas - low))) for low, *_ in intervals]
    for k, sigma in enumerate(sigmas):
        path.append(sigma)
        for start, (_, high, steps, times) in zip(starts, intervals, strict=True):
            if start == k and sigma < high:
                path += [*karras(high, sigma, int(steps) + 1)[:-1], sigma] * int(times)
    return np.array(path)


def repaint(levels: Level, arguments: Sequence[Numbers], at: At) -> Level:
    """The levels with RePaint's jumps; the argument is (length, times)."""
    positions = repainted(len(levels.t), *_length_and_times(arguments))
    return with_clean(jax.tree.map(lambda values: values[::-1][np.array(positions)], levels))


def repainted(steps: int, length: int, times: int) -> list[int]:
    """The positions visited, counted from the cleanest level: steps − 1 … 0, one at a time.

    From each of 0, length, 2·length, … below steps − length, it goes up `length` and down again, times − 1
    times.
    """
    left = dict.fromkeys(range(0, steps - length, length), times - 1)
    path = [steps - 1]
    while path[-1] > 0 or left.get(path[-1], 0) > 0:
        at = path[-1]
        if left.get(at, 0) > 0:
            left[at] -= 1
            path += range(at + 1, at + length + 1)
        else:
            path.append(at - 1)
    return path


def travel(levels: Level, arguments: Sequence[Numbers], at: At) -> Level:
    """The levels with time travel; the argument is (length, times)."""
    return travelled(with_clean(levels), *_length_and_times(arguments))


def travelled(levels: Level, length: int, times: int) -> Level:
    """The levels [N + 1] as visited when every segment is taken several times; the last may be shorter."""
    steps = len(levels.t) - 1
    visited = [0]
    for first in range(0, steps, length):
        last = min(first + length, steps)
        visited += [*range(first + 1, last + 1), *([*range(first, last + 1)] * (times - 1))]
    return jax.tree.map(lambda values: values[np.array(visited)], levels)


def _length_and_times(arguments: Sequence[Numbers]) -> tuple[int, int]:
    if len(arguments) != 1 or len(arguments[0]) != 2 or not _are_counts(arguments[0]):
        given = '/'.join(map(_text, arguments))
        raise ValueError(f'{given}; must be the length of a stretch and how often it is taken, such as 10,2')
    length, times = arguments[0]
    return int(length), int(times)


def _are_counts(numbers: Numbers) -> bool:
    return all(number >= 1 and number % 1 == 0 for number in numbers)


def _text(numbers: Numbers) -> str:
    return ','.join(f'{number:g}' for number in numbers)


# (levels without the clean image, arguments, σ → levels) → the levels in order, the clean image last.
JUMPS: dict[str, Callable[[Level, Sequence[Numbers], At], Level]] = {
    'restart': restart,
    'repaint': repaint,
    'travel': travel,
}
