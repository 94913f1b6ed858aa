"""The one comparison behind every parity check, and a recorder of what it finds.

A number agrees with the recorded one within the case's tolerance, or else one of two things explains the
difference, both computed beside it and never guessed:

* `exact`: the same formula in float64, written down a second time (`tests.parity.exact`). Where the record
  itself has lost its digits, ours must be right instead: within the same tolerance of the exact value.
* `rounding`: what the roundings on both sides may amount to in this very element, from the step's own
  derivatives. Where that is more than the tolerance, it is the tolerance.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_recorders: 'list[list[Comparison]]' = []


@dataclass(frozen=True)
class Comparison:
    """One call of `compare`, over `count` numbers.

    largest_absolute, largest_relative: of the numbers within the plain tolerance, the largest error, and that
      as a share of the largest recorded value.
    explained, largest_explained: how many numbers missed it and were accepted for one of the two reasons, and
      the largest difference among them.
    """

    quantity: str
    count: int
    largest_absolute: float
    largest_relative: float
    rtol: float
    atol: float
    explained: int
    largest_explained: float


@contextlib.contextmanager
def recording() -> Iterator[list[Comparison]]:
    """Collects every comparison that is made inside."""
    found: list[Comparison] = []
    _recorders.append(found)
    try:
        yield found
    finally:
        _recorders.remove(found)


def compare(
    quantity: str,
    ours: ArrayLike,
    recorded: ArrayLike,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    exact: Callable[[], ArrayLike] | None = None,
    rounding: Callable[[], ArrayLike] | None = None,
    detail: str = '',
) -> None:
    """Raises AssertionError unless ours is the recorded array: |ours − recorded| ≤ atol + rtol·|recorded|.

    `exact` and `rounding` are asked for only where that fails. `quantity` names the kind of number, a row of
    the table of errors; `detail` says which of its kind it is.
    """
    ours, recorded = np.asarray(ours), np.asarray(recorded)
    assert ours.shape == recorded.shape, f'{quantity} {detail}: {ours.shape}, recorded {recorded.shape}'
    ours, recorded = ours.astype(np.float64), recorded.astype(np.float64)
    with np.errstate(invalid='ignore'):
        error = np.where(ours == recorded, 0.0, np.abs(ours - recorded))  # equal infinities agree
    missed = wrong = ~(error <= atol + rtol * np.abs(recorded))
    if wrong.any() and rounding is not None:
        wrong = wrong & ~(error <= np.broadcast_to(rounding(), error.shape))
    if wrong.any() and exact is not None:
        truth = np.asarray(exact(), np.float64)
        wrong = wrong & ~(np.abs(ours - truth) <= atol + rtol * np.abs(truth))
    if wrong.any():
        raise AssertionError(_mismatch(f'{quantity} {detail}', ours, recorded, wrong, rtol, atol))
    largest = float(np.max(np.abs(recorded), initial=0.0))
    worst = float(np.max(error, initial=0.0, where=~missed))
    found = Comparison(
        quantity,
        count=error.size,
        largest_absolute=worst,
        largest_relative=worst / largest if largest else 0.0,
        rtol=float(rtol),
        atol=float(atol),
        explained=int(missed.sum()),
        largest_explained=float(np.max(error, initial=0.0, where=missed)),
    )
    for recorder in _recorders:
        recorder.append(found)


def _mismatch(
    name: str, ours: np.ndarray, recorded: np.ndarray, wrong: np.ndarray, rtol: float, atol: float
) -> str:
    where = np.unravel_index(np.argmax(np.where(wrong, np.abs(ours - recorded), -1.0)), wrong.shape)
    return (
        f'{name}: {wrong.sum()} of {wrong.size} numbers differ (rtol {rtol:g}, atol {atol:g}); '
        f'the worst, at {tuple(map(int, where))}, is {ours[where]:.9g}, recorded {recorded[where]:.9g}'
    )
